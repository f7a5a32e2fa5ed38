"""Verification of what servers answer: what passes, and each way in which it must not."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clients.conftest import ENGINES, ON_SERVERS, Server
from tests.servers import free_ports, wait_for
from tfserving.clients import connect
from tfserving.clients.reports.verification import write
from tfserving.clients.verification.proofs import SourceError, Versions, subjects
from tfserving.clients.verification.verdicts import Report, Row
from tfserving.clients.verification.verify import Settings, verify
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.golden import RECORDS
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import write_records
from tfserving.foundation.tensors import to_proto

pytestmark = ON_SERVERS


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest) -> Server:
    """The server of each engine that this machine has: what they answer is what is verified."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


def ask(server: Server, *folders: Path) -> Report:
    return verify(folders, grpc=server.grpc, rest=server.rest)


def only(report: Report) -> Row:
    """The row that both protocols have alike."""
    grpc, rest = report.rows
    assert (grpc.protocol, rest.protocol) == ("grpc", "rest")
    assert (grpc.model, grpc.version, grpc.verdict) == (rest.model, rest.version, rest.verdict)
    assert not report.ok
    return grpc


def test_every_golden_request_of_every_version_is_equal_over_both_protocols(server: Server) -> None:
    report = ask(server, server.models / "scale")
    assert report.ok
    assert {(row.version, row.protocol, row.signature, row.output) for row in report.rows} == {
        (version, protocol, signature, output)
        for version in (1, 2)
        for protocol in ("grpc", "rest")
        for signature, output in (
            ("serving_default", "scaled"),
            ("serving_default", "total"),
            ("positive", "rows"),
            ("upper", "text"),
            ("upper", "raw_bytes"),
            ("two", "sum"),
            ("two", "twice"),
        )
    }
    for row in report.rows:
        assert (row.verdict, row.requests) == ("equal", 2 if row.signature == "serving_default" else 1), row
        assert row.ulp == (None if row.signature == "upper" or row.output == "twice" else 0)
    assert report.sentence() == "all 10 golden requests of 1 model equal over gRPC and REST"


def test_a_weight_that_was_changed_on_disk_is_found(server: Server) -> None:
    report = ask(server, server.models / "tampered")
    assert not report.ok
    different = {(row.protocol, row.output) for row in report.rows if not row.ok}
    assert different == {(protocol, output) for protocol in ("grpc", "rest") for output in ("scaled", "total")}
    row = next(row for row in report.rows if not row.ok)
    assert row.verdict == "different"
    assert row.absolute is not None
    assert row.absolute > 0.1
    assert row.ulp is not None
    assert row.ulp > 1000
    assert "request 0: [" in row.reason
    assert "tampered version 1, signature 'serving_default', output 'scaled' over gRPC" in report.sentence()
    assert not report.unreachable


def test_a_version_that_is_served_but_not_on_disk_fails(server: Server, tmp_path: Path) -> None:
    shutil.copytree(server.models / "scale" / "1", tmp_path / "scale" / "1")
    failed = [row for row in ask(server, tmp_path).rows if not row.ok]
    assert {(row.version, row.protocol) for row in failed} == {(2, "grpc"), (2, "rest")}
    assert f"it is served, but {tmp_path / 'scale'} doesn't contain it" in failed[0].reason


def test_a_version_without_golden_requests_fails(server: Server, tmp_path: Path) -> None:
    shutil.copytree(server.models / "scale", tmp_path / "scale")
    (tmp_path / "scale" / "1" / RECORDS).unlink()
    failed = [row for row in ask(server, tmp_path).rows if not row.ok]
    assert [row.version for row in failed] == [1, 1]
    assert "golden.tfrecord: No such file or directory" in failed[0].reason


def test_a_model_that_is_not_served_fails(server: Server, tmp_path: Path) -> None:
    shutil.copytree(server.models / "words" / "1", tmp_path / "unheard" / "1")
    row = only(ask(server, tmp_path))
    assert (row.model, row.code, row.version) == ("unheard", "NOT_FOUND", None)
    assert "it isn't served" in row.reason


def test_requests_that_the_server_refuses_fail(server: Server, tmp_path: Path) -> None:
    # The golden requests of another model, whose signatures and inputs this one doesn't have.
    shutil.copytree(server.models / "scale" / "1", tmp_path / "words" / "1")
    report = verify([tmp_path], grpc=server.grpc)
    assert not report.ok
    codes = {row.signature: row.code for row in report.rows if not row.ok}
    assert codes["serving_default"] == "INVALID_ARGUMENT"
    assert codes["two"] == "FAILED_PRECONDITION"


def test_an_unreachable_server_fails_at_once_and_is_told_apart(server: Server) -> None:
    (port,) = free_ports(1)
    report = verify([server.models / "scale"], grpc=f"127.0.0.1:{port}")
    (row,) = report.rows
    assert (row.verdict, row.code) == ("failed", "UNAVAILABLE")
    assert report.unreachable
    mixed = verify([server.models / "tampered"], grpc=server.grpc, rest=f"127.0.0.1:{port}")
    assert not mixed.unreachable, "what is different weighs more"


def test_one_protocol_can_be_asked_alone(server: Server) -> None:
    report = verify([server.models / "words"], rest=f"http://{server.rest}")
    assert report.ok
    assert report.sentence() == "the golden request of 1 model equal over REST"


def test_a_newer_version_is_verified_when_the_server_moves_on_to_it(server: Server) -> None:
    moving = server.models / "moving"
    said = []

    def move(text: str) -> None:
        """Called when version 1 is about to be asked: has the server replace it by version 2 first."""
        said.append(text)
        if len(said) == 1:
            shutil.copytree(server.models / "scale" / "2", moving / ".tmp-2")
            (moving / ".tmp-2").rename(moving / "2")
            with connect(server.url("grpc")) as client:
                client.wait_until_available("moving", version=2, timeout=30)
                wait_for(lambda: client.status("moving", version=1)[0].state == "END", 30)

    report = verify([moving], grpc=server.grpc, rest=server.rest, settings=Settings(progress=move))
    assert report.ok
    assert {row.version for row in report.rows} == {2}
    assert said[0] == "moving version 1 over gRPC: 5 golden requests"
    assert said[1] == "moving version 2 over gRPC: 5 golden requests"
    assert report.requests == 5


def test_a_version_that_failed_to_load_fails_though_the_one_before_it_serves(server: Server) -> None:
    broken = server.models / "breaking" / "99"
    shutil.copytree(server.models / "breaking" / "1", server.models / "breaking" / ".tmp-99")
    (server.models / "breaking" / ".tmp-99" / "saved_model.pb").write_bytes(b"no SavedModel")
    (server.models / "breaking" / ".tmp-99").rename(broken)
    with connect(server.url("grpc")) as client:
        wait_for(lambda: any(status.version == 99 and status.failed for status in client.status("breaking")), 30)
    report = verify([server.models / "breaking"], grpc=server.grpc)
    assert not report.ok
    rows = {row.version: row for row in report.rows}
    assert rows[1].ok
    assert "it failed to load" in rows[99].reason
    shutil.rmtree(broken)


def test_addresses_are_needed(server: Server) -> None:
    with pytest.raises(ValueError, match="no address is given"):
        verify([server.models])
    with pytest.raises(ValueError, match="'grpc://:1' is not the URL"):
        verify([server.models], grpc=":1")
    with pytest.raises(ValueError, match="is not the address of a grpc port; expected HOST:PORT or grpc://HOST:PORT"):
        verify([server.models], grpc=f"http://{server.rest}")


def found(*sources: str | Path) -> dict[str, Any]:
    with subjects(sources) as made:
        return dict(made)


def test_a_folder_is_a_models_or_a_versions_or_holds_models(models: Path, tmp_path: Path) -> None:
    assert found(models / "scale") == {"scale": Versions(models / "scale")}
    assert found(models / "scale" / "2") == {"scale": Versions(models / "scale", frozenset({2}))}
    both = found(models / "scale" / "2", models / "scale" / "1")
    assert both == {"scale": Versions(models / "scale", frozenset({1, 2}))}
    assert found(models / "scale" / "2", models / "scale") == {"scale": Versions(models / "scale")}
    assert sorted(found(models)) == sorted(folder.name for folder in models.iterdir())
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / "without a version").mkdir()
    (tmp_path / "README").write_text("no folder")
    assert sorted(found(tmp_path)) == ["a", "without a version"]


def test_sources_without_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere is neither a folder nor a file"):
        found(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="contains no model: a model is a folder with versions in it"):
        found(tmp_path)
    for parent in ("a", "b"):
        (tmp_path / parent / "same" / "1").mkdir(parents=True)
    with pytest.raises(SourceError, match="both contain a model 'same'"):
        found(tmp_path / "a", tmp_path / "b")
    with pytest.raises(SourceError, match="contains no published version"):
        found(f"file://{tmp_path}")
    with pytest.raises(SourceError, match="nosuch://bucket: Protocol not known"):
        found("nosuch://bucket")
    (tmp_path / "text").write_text("no TFRecord")
    with pytest.raises(SourceError, match=r"this is no TFRecord|the file ends within"):
        found(tmp_path / "text")


def test_what_is_published_is_verified_by_its_url(server: Server, tmp_path: Path) -> None:
    for published, versions in (("models/scale", {1, 2}), ("models/scale/2", {2}), ("models", {1, 2})):
        shutil.rmtree(tmp_path / "models", ignore_errors=True)
        shutil.copytree(server.models / "scale", tmp_path / "models" / "scale")
        report = verify([f"file://{tmp_path}/{published}"], grpc=server.grpc)
        assert report.ok, report.sentence()
        assert {row.version for row in report.rows} == versions


def test_a_version_that_is_named_must_be_served(server: Server, tmp_path: Path) -> None:
    report = verify([server.models / "scale" / "1"], grpc=server.grpc)
    assert report.ok
    assert {row.version for row in report.rows} == {1}
    shutil.copytree(server.models / "scale", tmp_path / "scale")
    (tmp_path / "scale" / "2").rename(tmp_path / "scale" / "7")
    failed = verify([tmp_path / "scale" / "7"], grpc=server.grpc).rows[0]
    assert (failed.version, failed.code, failed.reason) == (7, "NOT_FOUND", "it isn't served; available: 2, 1")


def test_the_newest_version_on_disk_must_be_served(server: Server, tmp_path: Path) -> None:
    shutil.copytree(server.models / "scale", tmp_path / "scale")
    shutil.copytree(tmp_path / "scale" / "2", tmp_path / "scale" / "3")
    report = verify([tmp_path / "scale"], grpc=server.grpc)
    assert [row.version for row in report.rows if not row.ok] == [3]


@pytest.fixture
def trial(server: Server, tmp_path: Path) -> Path:
    """The folder of a model whose version 1 is stable; the server has 2 as its canary, and 3 not at all."""
    shutil.copytree(server.models / "scale", tmp_path / "trial")
    return Path(shutil.copytree(tmp_path / "trial/2", tmp_path / "trial/3")).parent


def test_what_is_served_is_verified_the_canary_by_its_own_name(server: Server, trial: Path) -> None:
    report = ask(server, trial)
    assert report.ok, report.sentence()
    assert {(row.model, row.version, row.protocol) for row in report.rows} == {
        (*served, protocol) for served in (("trial", 1), ("trial-canary", 2)) for protocol in ("grpc", "rest")
    }
    assert report.sentence() == "all 10 golden requests of 1 model equal over gRPC and REST"
    # A version that is named is looked for under both names.
    assert {row.model for row in ask(server, trial / "2").rows} == {"trial-canary"}
    assert only(ask(server, trial / "3")).reason == "it isn't served; available: 1"


def test_a_canary_that_answers_otherwise_is_found(server: Server, trial: Path) -> None:
    shutil.rmtree(trial / "2")
    shutil.copytree(trial / "1", trial / "2")
    report = ask(server, trial)
    assert {(row.model, row.version) for row in report.rows if not row.ok} == {("trial-canary", 2)}


def test_requests_are_asked_one_by_one_in_a_batch_and_at_the_same_time(server: Server) -> None:
    report = ask(server, server.models / "scale", server.models / "flowers")
    assert report.ok
    for row in report.rows:
        in_a_batch = row.signature != "positive"
        assert list(row.ways) == (["alone", "batch", "concurrent"] if in_a_batch else ["alone", "concurrent"])
        assert ("batch" in row.left_out) == (not in_a_batch), "its outputs are fewer than its inputs"
        assert {tally.verdict for tally in row.ways.values()} == {"equal"}
        assert row.ways["concurrent"].requests >= 6
        assert row.ways["alone"].requests == row.requests


def test_an_answer_that_depends_on_what_else_is_in_the_batch_is_found(server: Server) -> None:
    report = verify([server.models / "centred"], grpc=server.grpc)
    (row,) = report.rows
    verdicts = {way: tally.verdict for way, tally in row.ways.items()}
    assert verdicts == {"alone": "equal", "batch": "different", "concurrent": "equal"}
    assert row.verdict == "different"
    assert row.reason.startswith("request 0, requests 0, 1 as one: [0, ")
    only_alone = verify([server.models / "centred"], grpc=server.grpc, settings=Settings(ways=["alone"]))
    assert only_alone.ok


def test_two_servers_are_compared_with_each_other(server: Server, tmp_path: Path) -> None:
    report = verify([server.models / "scale"], grpc=server.grpc, rest=server.rest, against=f"grpc://{server.grpc}")
    assert report.ok
    assert report.sentence() == (
        f"all 5 golden requests of 1 model equal over gRPC and REST to those of grpc://{server.grpc}"
    )
    assert {row.version for row in report.rows} == {None}
    # The proof of another model: what counts is what the other server answers.
    shutil.copytree(server.models / "tampered", tmp_path / "tampered")
    tampered = tmp_path / "tampered"
    assert verify([tampered], grpc=server.grpc, against=f"http://{server.rest}").ok
    (port,) = free_ports(1)
    gone = verify([tampered / "1"], grpc=server.grpc, against=f"grpc://127.0.0.1:{port}")
    assert not gone.ok
    assert f"127.0.0.1:{port}: no gRPC server is listening" in gone.rows[0].reason


def capture(path: Path, server: Server, answered: bool = True, **spec: Any) -> Path:
    """A file of a captured request to `scale` version 1."""
    log = PredictionLog()
    with connect(server.url("grpc")) as client:
        rows = np.array([[1, 2, 3]], np.float32)
        outputs = client.predict("scale", {"x": rows}, version=1).outputs
    request = log.predict_log.request
    request.model_spec.name = "scale"
    request.inputs["x"].CopyFrom(to_proto(rows))
    for name, array in outputs.items() if answered else ():
        log.predict_log.response.outputs[name].CopyFrom(to_proto(array))
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    write_records(path, [log.SerializeToString()])
    return path


def test_captured_requests_are_verified(server: Server, tmp_path: Path) -> None:
    pinned = capture(tmp_path / "pinned.tfrecord", server, version=1)
    assert ask(server, pinned).ok
    newest = capture(tmp_path / "newest.tfrecord", server)
    report = ask(server, newest)
    assert not report.ok, "version 2 answers otherwise"
    assert {row.output: row.absolute for row in report.rows if row.protocol == "grpc"} == {"scaled": 3, "total": 6}
    far = Settings(tolerance=Tolerance(absolute=6, relative=0))
    assert verify([newest], grpc=server.grpc, settings=far).rows[0].verdict == "within tolerance"
    unanswered = capture(tmp_path / "unanswered.tfrecord", server, answered=False)
    assert "its captured requests have no responses" in ask(server, unanswered).rows[0].reason
    assert verify([unanswered], grpc=server.grpc, against=f"http://{server.rest}").ok


def test_a_report_is_one_page_with_a_plot(server: Server, tmp_path: Path) -> None:
    for model in ("scale", "tampered", "words", "shared"):
        report = ask(server, server.models / model)
        write(tmp_path / "report.html", report)
        page = (tmp_path / "report.html").read_text()
        assert html.escape(report.sentence()).replace("&#x27;", "&#39;") in page
        assert not re.search(r"(src|href)=[\"']?http", page), "it needs nothing from elsewhere"
        assert ("<svg" in page) == (model != "shared")
        assert {path.name for path in tmp_path.iterdir()} == {"report.html"}
