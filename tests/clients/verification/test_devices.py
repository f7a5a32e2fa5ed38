"""Verification on several kinds of device: which tolerances apply, and what a server that computes in TF32 looks like.

No GPU is needed: the model `rounded` rounds the factors of its products as TF32 does, and a server before the server
names a kind of device.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.clients import naming
from tests.clients.conftest import ON_SERVERS, Awaiting, Server
from tfserving.cli import tfserving
from tfserving.clients import connect
from tfserving.clients.reports.verification import write
from tfserving.clients.verification.tolerance_sets import EXACT_HINT, TF32_HINT
from tfserving.clients.verification.verdicts import Report
from tfserving.clients.verification.verify import Settings, verify
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.devices import Device
from tfserving.foundation.golden import RECORDS

pytestmark = ON_SERVERS


def verified(server: Server, *sources: Path, **settings: Any) -> Report:
    return verify(
        sources or [server.models / "rounded"], grpc=server.grpc, rest=server.rest, settings=Settings(**settings)
    )


@contextlib.contextmanager
def naming_both(server: Server, device: str) -> Iterator[dict[str, str]]:
    """The addresses of a server that names `device` over both protocols."""
    with naming.naming_grpc(server.grpc, device) as grpc, naming.naming_rest(server.rest, device) as rest:
        yield {"grpc": grpc, "rest": rest}


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("style", ["blocking", "asyncio"])
def test_a_client_reads_the_device_that_a_server_names(server: Server, protocol: str, style: str) -> None:
    with naming_both(server, "gpu-tf32") as addresses:
        url = f"{'grpc' if protocol == 'grpc' else 'http'}://{addresses[protocol]}"
        if style == "blocking":
            with connect(url) as client:
                statuses = client.status("scale")
        else:
            awaiting = Awaiting(url, None)
            statuses = awaiting.status("scale")
            awaiting.end()
    assert [(status.version, status.device) for status in statuses] == [(2, "gpu-tf32"), (1, "gpu-tf32")]


def test_a_server_in_tf32_fails_with_the_tolerances_of_a_cpu_and_with_a_hint(server: Server) -> None:
    report = verified(server, device="cpu")
    assert not report.ok
    verdicts = {(row.protocol, row.signature, row.output): row.verdict for row in report.rows}
    for protocol in ("grpc", "rest"):
        assert verdicts[protocol, "serving_default", "scores"] == "different"
        # Scores that are wrong excuse no label.
        assert verdicts[protocol, "serving_default", "label"] == "different"
        assert verdicts[protocol, "label", "label"] == "different"
    scores = next(row for row in report.rows if row.output == "scores")
    assert scores.scaled is not None
    assert 1e-4 < scores.scaled < 1e-2
    assert (scores.device, scores.hint) == ("cpu", TF32_HINT)
    assert report.hints == (TF32_HINT,)
    assert report.tolerances == ("cpu, the given device",)


def test_with_the_tolerances_for_tf32_it_passes_and_labels_that_flip_are_near_ties(server: Server) -> None:
    report = verified(server, device="gpu-tf32")
    wrong = [row for row in report.rows if not row.ok]
    # A label without scores can't be judged.
    assert {(row.protocol, row.signature, row.output) for row in wrong} == {
        ("grpc", "label", "label"),
        ("rest", "label", "label"),
    }
    assert "the response has no scores by class, so a near tie can't be told from an error" in wrong[0].reason
    assert report.hints == ()
    for row in report.rows:
        if row.signature == "label":
            continue
        scores = row.output in ("scores", "best_scores")
        assert row.verdict == ("within tolerance" if scores else "near tie"), row
        # One by one, in a batch, and at the same time.
        assert {tally.verdict for tally in row.ways.values()} == {row.verdict}
    label = next(row for row in report.rows if row.output == "label" and row.signature == "serving_default")
    assert "request 1: [2]: got " in label.reason
    assert ", and 3 more: a near tie, with the scores " in label.reason
    assert label.reason.endswith(" in output 'scores'")


def without_the_label(server: Server, folder: Path) -> Path:
    """A copy of the model `rounded`, without the golden requests whose labels can't be judged."""
    from tests.clients.tiny_models import write_manifest
    from tfserving.foundation.messages import PredictionLog
    from tfserving.foundation.records import read_records, write_records

    version = Path(shutil.copytree(server.models / "rounded", folder / "rounded")) / "1"
    logs = [PredictionLog.FromString(record) for record in read_records(version / RECORDS)]
    kept = [log for log in logs if log.predict_log.request.model_spec.signature_name != "label"]
    write_records(version / RECORDS, [log.SerializeToString() for log in kept])
    write_manifest(version, {"cpu": (1e-5, 1e-5, 0.0), "gpu-tf32": (0.0, 0.0, 2e-3)})
    return version.parent


def test_near_ties_match_and_are_named_in_the_outcome_and_the_page(server: Server, tmp_path: Path) -> None:
    report = verified(server, without_the_label(server, tmp_path), device="gpu-tf32")
    assert report.ok
    assert report.sentence() == (
        "all 4 golden requests of 1 model equal, within tolerance or near ties over gRPC and REST"
    )
    write(tmp_path / "report.html", report)
    page = (tmp_path / "report.html").read_text()
    assert "<p>Tolerances: gpu-tf32, the given device.</p>" in page
    assert '<td class="fair">near tie</td>' in page
    assert "a near tie, with the scores" in page


def test_the_tolerances_are_those_of_the_device_that_the_server_names(server: Server, tmp_path: Path) -> None:
    model = without_the_label(server, tmp_path)
    with naming_both(server, "gpu-tf32") as addresses:
        report = verify([model], **addresses, settings=Settings(fleet_device="cpu"))
        assert report.ok, report.sentence()
        assert report.tolerances == ("gpu-tf32, the device that the server names; that of models.yaml is cpu",)
        # A given device weighs more.
        assert not verify([model], **addresses, settings=Settings(device="cpu")).ok
    fleet: Device = "gpu-tf32"
    with naming_both(server, "") as addresses:
        silent = verify([model], **addresses, settings=Settings(fleet_device=fleet))
        assert silent.ok
        assert silent.tolerances == ("gpu-tf32, the device of `server` in models.yaml",)
        assumed = verify([model], **addresses)
        assert assumed.tolerances == ("cpu, since the server names no device",)
        assert assumed.hints == (TF32_HINT,)


def test_two_ports_can_name_two_devices(server: Server, tmp_path: Path) -> None:
    model = without_the_label(server, tmp_path)
    with naming.naming_grpc(server.grpc, "gpu-tf32") as grpc, naming.naming_rest(server.rest, "cpu") as rest:
        report = verify([model], grpc=grpc, rest=rest)
    assert {(row.protocol, row.device) for row in report.rows} == {("grpc", "gpu-tf32"), ("rest", "cpu")}
    assert report.tolerances == (
        "rounded over gRPC: gpu-tf32, the device that the server names",
        "rounded over REST: cpu, the device that the server names",
    )


def test_a_version_without_tolerances_for_the_device_fails(server: Server) -> None:
    scale = server.models / "scale"
    (row, _) = verified(server, scale / "1", device="gpu-tf32").rows
    assert (row.verdict, row.version, row.signature) == ("failed", 1, None)
    assert row.reason == (
        "the version has no tolerances for gpu-tf32, the given device; it has those for cpu: they are measured only by "
        "an export on a GPU. Turn TF32 off (`server.tf32: false`), or give --absolute, --relative or --scale"
    )
    (row, _) = verified(server, scale / "1", device="gpu").rows
    assert "no tolerances for gpu, the given device; it has those for cpu: export the version again" in row.reason
    with naming_both(server, "a potato\x85") as addresses:
        report = verify([scale / "1"], rest=addresses["rest"])
    assert "the server names the device 'a potato\\\\x85', expected cpu, gpu, gpu-tf32" in report.rows[0].reason


def test_tolerances_by_scale_can_be_given(server: Server, tmp_path: Path) -> None:
    model = without_the_label(server, tmp_path)
    report = verified(server, model, tolerance=Tolerance(0, 0, 2e-3))
    assert report.ok
    assert report.tolerances == ("given: absolute 0, relative 0, scale 0.002",)
    far = verified(server, model, tolerance=Tolerance(0, 0, 1e-6))
    assert not far.ok
    assert far.hints == (), "whoever gives a tolerance knows how far outputs may differ"


def test_outputs_without_tolerances_of_a_version_must_be_equal(server: Server, tmp_path: Path) -> None:
    model = without_the_label(server, tmp_path)
    same = verify([model], grpc=server.grpc, against=f"http://{server.rest}")
    assert same.ok, same.sentence()
    assert same.tolerances == ("none: outputs must be equal",)
    captured = model / "1" / RECORDS
    report = verified(server, captured)
    assert not report.ok
    assert report.tolerances == ("none: outputs must be equal",)
    assert report.hints == (EXACT_HINT,)
    assert verified(server, captured, tolerance=Tolerance(0, 0, 2e-3)).ok


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(tfserving, [str(argument) for argument in arguments])


def test_the_command_shows_the_tolerances_and_the_hint(server: Server) -> None:
    result = run("verify", server.models / "rounded", "--server", f"grpc://{server.grpc}", "--device", "cpu")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert "Tolerances: cpu, the given device." in lines
    assert TF32_HINT in lines
    scores = next(line.split() for line in lines if " scores " in line)
    assert 1e-4 < float(scores[7]) < 1e-2, "the column `max scale`"


def test_the_command_takes_a_device_or_tolerances(server: Server, tmp_path: Path) -> None:
    model, address = without_the_label(server, tmp_path), ("--server", f"http://{server.rest}")
    result = run("verify", model, *address, "--device", "gpu-tf32", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["tolerances"], report["hints"]) == (["gpu-tf32, the given device"], [])
    rows = {row["output"]: row for row in report["rows"]}
    assert (rows["label"]["verdict"], rows["label"]["ok"], rows["label"]["device"]) == ("near tie", True, "gpu-tf32")
    assert 1e-4 < rows["scores"]["scaled"] < 1e-2
    assert rows["scores"]["ways"]["alone"]["scaled"] == rows["scores"]["scaled"]
    assert run("verify", model, *address, "--scale", "0.002").exit_code == 0
    for other in (("--scale", "0.1"), ("--absolute", "0"), ("--against", f"grpc://{server.grpc}")):
        result = run("verify", model, *address, "--device", "gpu", *other)
        assert result.exit_code == 2
        assert "--device selects tolerances of the version" in result.stderr
    assert "'tpu' is not one of 'cpu', 'gpu', 'gpu-tf32'" in run("verify", "--device", "tpu").stderr


def test_the_device_of_a_fleet_is_that_of_its_models_yaml(server: Server, tmp_path: Path) -> None:
    model = without_the_label(server, tmp_path)
    fleet = tmp_path / "models.yaml"
    fleet.write_text(
        f"folder: {model.parent}\nmodels: {{rounded: {{saved_model: rounded/1}}}}\nserver: {{gpus: all, tf32: true}}\n"
    )
    with naming.naming_grpc(server.grpc, "") as silent:
        result = run("verify", "--fleet", fleet, "--server", f"grpc://{silent}")
        assert result.exit_code == 0, result.output
        assert "Tolerances: gpu-tf32, the device of `server` in models.yaml." in result.stdout
        # What isn't a model of the fleet may run anywhere.
        result = run("verify", model, "--fleet", fleet, "--server", f"grpc://{silent}")
        assert "Tolerances: cpu, since the server names no device." in result.stdout
