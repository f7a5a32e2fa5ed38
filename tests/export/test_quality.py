"""Quality of served versions: the digits' network beside the same one with negated weights, over gRPC and REST."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_digits

from tests.export.conftest import ROOT, ExportedFleet, export_to
from tests.exporting import typed_in
from tests.k8s.reached import Server
from tests.servers import Served, serve
from tfserving.cli import tfserving
from tfserving.export.manifest import read_manifest
from tfserving.export.models import digits
from tfserving.export.servable import Evaluation, Servable
from tfserving.export.training import trained_weights
from tfserving.foundation.golden import MANIFEST
from tfserving.foundation.quality import Metric
from tfserving.foundation.tensors import Array
from tfserving.k8s.rollout.drift import drift
from tfserving.k8s.rollout.evaluation import evaluate
from tfserving.k8s.rollout.quality import compare_metrics, require
from tfserving.k8s.rollout.shadow import shadow
from tfserving.k8s.rollout.state import Figure
from tfserving.k8s.rollout.target import GateError, Reached
from tfserving.serving.models_yaml.fleet import Fleet, Model, read_fleet

# The samples are trained once.
pytestmark = pytest.mark.xdist_group("samples")
MODELS = {
    "digits": "{builder: 'tfserving.export.models.digits:build', versions: [1, 2]}",
    "tips": "{builder: 'tfserving.export.models.tips:build'}",
    "resigned": "{builder: 'tfserving.export.models.resigned:build'}",
    "wine": "{builder: 'tfserving.export.models.wine:build'}",
}


def negated() -> Servable:
    """The digits' network, with all of its weights negated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "LOWEST_ACCURACY", 0)
        patch.setattr(digits, "trained_weights", lambda key, train: [-one for one in trained_weights(key, train)])
        return digits.build()


@dataclass(frozen=True)
class Versions:
    """A fleet whose digits have the network as version 1 and the negated one as 2, and its server."""

    folder: Path
    server: Served

    def fleet(self, digits: str = "", rollout: str = "") -> Fleet:
        """The fleet that says more of its digits and of rollouts."""
        lines = [f"  {name}: {said}" for name, said in MODELS.items()]
        lines[0] = lines[0].replace("versions", f"{digits}, versions" if digits else "versions")
        file = self.folder / "said.yaml"
        file.write_text("\n".join(["models:", *lines, f"rollout: {{{rollout}}}"]))
        return read_fleet(file)

    def reached(self, model: str, version: int, protocol: str = "grpc") -> Reached:
        grpc = f"127.0.0.1:{self.server.grpc_port}" if protocol == "grpc" else None
        return Reached(Server("the server", grpc, f"127.0.0.1:{self.server.rest_port}"), model, version)

    def evaluated(self, fleet: Fleet, model: str = "digits", old: int = 1, new: int = 2, over: str = "grpc") -> Figure:
        """What comes of the labelled rows; there must be a figure."""
        (figure,) = evaluate(fleet, model, self.reached(model, old, over), self.reached(model, new, over), never)
        return figure


def never(seconds: float) -> None:
    assert not seconds


@pytest.fixture(scope="module")
def versions(exported_fleet: ExportedFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    folder = tmp_path_factory.mktemp("quality")
    for model in MODELS:
        shutil.copytree(exported_fleet.models / model / "1", folder / "models" / model / "1")
    with typed_in(exported_fleet.cache.parents[1]):
        export_to(folder / "models/digits", negated)
    lines = [f"  {name}: {said}" for name, said in MODELS.items()]
    (folder / "models.yaml").write_text("\n".join(["models:", *lines, ""]))
    run = [sys.executable, "-m", "tfserving", "serve", "--engine", "embedded"]
    ports = ["--port", "{port}", "--rest-port", "{rest_port}"]
    with serve([*run, "--fleet", str(folder / "models.yaml"), *ports], ROOT) as server:
        yield Versions(folder, server)


def test_the_metric_in_the_manifest_stops_it_before_anything_is_loaded(versions: Versions) -> None:
    fleet = versions.fleet(rollout="quality: {test_accuracy: {at_least: 0.97, drop: 0.005}}")
    folders = [fleet.model_folder("digits") / str(number) for number in (1, 2)]
    (figure,) = compare_metrics(fleet, "digits", *folders)
    new, old = (f"{figure.numbers[key]:.4f}" for key in ("new", "old"))
    assert figure.text == (
        f"test_accuracy {new}, version 1 has {old}; at most 0.005 less is allowed; at least 0.97 is required"
    )
    assert float(new) < 0.6
    assert float(old) > 0.97
    with pytest.raises(GateError):
        require([figure], lambda _: None)
    assert [one.passed for one in compare_metrics(fleet, "digits", folders[0], folders[0])] == [True]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_served_versions_are_measured_on_the_rows_that_the_version_carries(
    versions: Versions, protocol: str
) -> None:
    figure = versions.evaluated(versions.fleet(), over=protocol)
    numbers = figure.numbers
    assert not figure.passed
    # What the builders measured in process.
    folders = [versions.folder / "models/digits" / str(number) for number in (1, 2)]
    (metric,) = compare_metrics(versions.fleet(), "digits", *folders)
    assert (numbers["new"], numbers["old"]) == (metric.numbers["new"], metric.numbers["old"])
    assert (numbers["rows"], numbers["test"]) == (360, "mcnemar")
    assert numbers["p_value"] < 1e-9
    assert figure.text.startswith(f"accuracy {numbers['new']:.4f} on 360 labelled rows, version 1 has 0.9")
    assert versions.evaluated(versions.fleet(), new=1, over=protocol).passed


@pytest.mark.parametrize(("model", "metric"), [("tips", "mae"), ("resigned", "auc")])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_version_is_as_good_as_itself(versions: Versions, model: str, metric: str, protocol: str) -> None:
    figure = versions.evaluated(versions.fleet(), model, 1, 1, protocol)
    assert figure.passed
    assert figure.numbers["metric"] == metric
    assert figure.numbers["new"] == figure.numbers["old"] > 0.5
    assert "(0.1 % of the old value)" in figure.text


def test_a_model_without_labelled_rows_has_no_figure(versions: Versions) -> None:
    wine = versions.reached("wine", 1)
    assert evaluate(versions.fleet(), "wine", wine, wine, never) == []


def test_limits_of_models_yaml_go_before_chance(versions: Versions) -> None:
    assert versions.evaluated(versions.fleet("evaluation: {drop: 1}")).passed
    figure = versions.evaluated(versions.fleet("evaluation: {drop: 1, at_least: 0.97}"))
    assert not figure.passed
    assert figure.text.endswith("1 less is allowed; at least 0.97 is required")
    with pytest.raises(GateError, match="accuracy is better when it is higher: use at_least and drop"):
        versions.evaluated(versions.fleet("evaluation: {rise: 0.1}"))


def few(rows: int = 40) -> tuple[Array, Array]:
    """Images, and the digits that they are."""
    data = load_digits()
    return data.images[:rows, ..., np.newaxis].astype(np.uint8), data.target[:rows]


def rows_of_ones_own() -> Evaluation:
    images, labels = few()
    return Evaluation({"image": images}, labels, near, "label", higher_is_better=True, drop=0.5)


def near(labels: Array, outputs: Mapping[str, Array]) -> float:
    """Whether the digit is right, or the one beside it."""
    return float(np.mean(np.abs(labels - outputs["label"]) <= 1))


@pytest.mark.parametrize("source", ["rows.npz", "rows.jsonl", f"{__name__}:rows_of_ones_own"])
def test_rows_may_be_a_file_or_what_a_function_returns(versions: Versions, source: str) -> None:
    images, labels = few()
    np.savez(versions.folder / "rows.npz", image=images, labels=labels)
    halves = ((images[:20], labels[:20]), (images[20:], labels[20:]))
    lines = [json.dumps({"inputs": {"image": some.tolist()}, "labels": its.tolist()}) for some, its in halves]
    (versions.folder / "rows.jsonl").write_text("\n".join([lines[0], "", lines[1]]))
    said = f"builder: '{source}'" if ":" in source else f"file: {source}, output: label"
    figure = versions.evaluated(versions.fleet(f"evaluation: {{{said}}}"))
    assert (figure.passed, figure.numbers["rows"]) == (False, 40)
    assert figure.numbers["metric"] == (f"{__name__}:near" if ":" in source else "accuracy")
    assert figure.numbers["old"] > 0.95
    assert figure.numbers["new"] < 0.6


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("gone.npz", "gone.npz: No such file"),
        ("short.npz", "short.npz: got 3 rows, expected 10 to 100000"),
        ("bare.npz", "bare.npz has no array 'labels', but image"),
        ("broken.jsonl", "broken.jsonl: line 2: "),
        ("{file: good.npz}", "good.npz: set `output` to one of label, scores"),
        ("{file: good.npz, signature: other}", "the model has no signature 'other', but serving_default"),
        (f"'{__name__}:few'", "few returned tuple, expected an Evaluation"),
        ("'no.such:thing'", "cannot import no.such:thing"),
        ("{metric: 'no.such:thing', higher_is_better: true}", "cannot import no.such:thing"),
        ("{metric: 'no.such:thing'}", "the metric no.such:thing needs True or False"),
    ],
)
def test_rows_that_are_of_no_use_stop_it(versions: Versions, said: str, problem: str) -> None:
    images, labels = few()
    np.savez(versions.folder / "short.npz", image=images[:3], labels=labels[:3])
    np.savez(versions.folder / "bare.npz", image=images)
    np.savez(versions.folder / "good.npz", image=images, labels=labels)
    line = json.dumps({"inputs": {"image": images[:1].tolist()}, "labels": [0]})
    (versions.folder / "broken.jsonl").write_text(f"{line}\n{line[:-9]}\n")
    with pytest.raises(GateError) as stopped:
        versions.evaluated(versions.fleet(f"evaluation: {said}"))
    assert str(stopped.value).startswith("evaluation: ")
    assert problem in str(stopped.value)


def test_rows_that_the_new_version_does_not_answer_fail_it(versions: Versions) -> None:
    images, labels = few()
    np.savez(versions.folder / "small.npz", image=images[:, :4], labels=labels)
    figure = versions.evaluated(versions.fleet("evaluation: {file: small.npz, output: label}"))
    assert not figure.passed
    assert "on 40 labelled rows: version 2 has none: inputs['image']: got uint8 (32, 4, 8, 1)" in (figure.text)


def test_a_function_that_only_the_version_names_is_not_run(versions: Versions) -> None:
    """Whoever can write versions would run anything where rollouts run."""
    folder = versions.folder / "foreign"
    for number in (1, 2):
        shutil.copytree(versions.folder / "models/digits" / str(number), folder / "digits" / str(number))
    manifest = read_manifest(folder / "digits/2")
    assert manifest.evaluation is not None
    said = replace(manifest.evaluation, metric=f"{__name__}:near", output=None, higher_is_better=True)
    written = manifest.model_copy(update={"evaluation": said}).text()
    (folder / "digits/2" / MANIFEST).write_text(written)
    fleet = versions.fleet().model_copy(update={"folder": folder})
    with pytest.raises(GateError, match="is not in the module of its builder"):
        versions.evaluated(fleet)
    adopted = fleet.model_copy(update={"models": {"digits": Model(saved_model=folder)}})
    with pytest.raises(GateError, match="is not in a module that "):
        versions.evaluated(adopted)
    allowed = versions.fleet(f"evaluation: {{metric: '{__name__}:near'}}").model_copy(update={"folder": folder})
    assert versions.evaluated(allowed).numbers["metric"] == f"{__name__}:near"


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_drift_is_printed_and_stops_it_when_that_is_asked_for(versions: Versions, protocol: str) -> None:
    old, new = (versions.reached("digits", version, protocol) for version in (1, 2))
    (figure,) = drift(versions.fleet(), "digits", old, new, never)
    numbers = figure.numbers
    assert figure.passed
    assert (numbers["requests"], numbers["rows"]) == (5, 46)
    assert 20 < numbers["relabelled"] < 40
    share = 100 * numbers["relabelled"] / 46
    assert figure.text.startswith(
        f"drift: {numbers['relabelled']} of 46 rows change their label ({share:.1f} %); scores:"
    )
    assert numbers["outputs"]["serving_default scores"]["distance"] > 0.05
    for said in ("labels: 0.1", "scores: 0.05"):
        (figure,) = drift(versions.fleet(rollout=f"drift: {{{said}}}"), "digits", old, new, never)
        assert not figure.passed
    (figure,) = drift(versions.fleet(rollout="drift: {labels: 0, scores: 0}"), "digits", old, old, never)
    assert figure.passed


@pytest.mark.parametrize("model", ["tips", "resigned", "wine"])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_answers_of_the_same_version_do_not_drift(versions: Versions, model: str, protocol: str) -> None:
    one = versions.reached(model, 1, protocol)
    (figure,) = drift(versions.fleet(rollout="drift: {labels: 0, scores: 0}"), model, one, one, never)
    assert figure.passed, figure.text
    assert figure.numbers["left_out"] == 0
    assert (figure.numbers["rows"] > 0) == (model != "resigned")


@pytest.fixture(scope="module")
def capture(versions: Versions) -> Path:
    """Requests that `tfserving capture` made a file of."""
    images, _ = few(60)
    source, made = versions.folder / "requests.jsonl", versions.folder / "captured.tfrecord"
    source.write_text("\n".join(json.dumps({"model": "digits", "inputs": one[None].tolist()}) for one in images))
    words = ["capture", str(source), "--warm-up", str(made), "--server", versions.server.url("grpc")]
    done = CliRunner().invoke(tfserving, words)
    assert done.exit_code == 0, done.output
    return made


def shadowed(versions: Versions, new: int, rollout: str) -> list[Figure]:
    reached = versions.reached("digits", 1), versions.reached("digits", new)
    return shadow(versions.fleet(rollout=rollout), "digits", reached[0], reached[1], never)


@pytest.mark.parametrize("name", ["captured.tfrecord", "requests.jsonl"])
def test_captured_requests_are_replayed_to_both(versions: Versions, capture: Path, name: str) -> None:
    assert capture.is_file()
    compared, moved = shadowed(versions, 2, f"shadow: {name}, drift: {{labels: 0.1}}")
    assert (compared.gate, moved.gate) == ("shadow", "drift")
    assert moved.text.startswith(f"drift of 60 captured requests: {moved.numbers['relabelled']} of 60 rows change")
    for side in ("new", "old"):
        assert (compared.numbers[side]["requests"], compared.numbers[side]["failed"]) == (60, 0)
    assert compared.text.startswith("shadow, 60 of 60 captured requests: version 2: 60 requests, 0 failed")
    assert (moved.passed, moved.numbers["rows"]) == (False, 60)
    assert moved.numbers["relabelled"] > 20


def test_so_many_requests_are_drawn(versions: Versions, capture: Path) -> None:
    compared, moved = shadowed(versions, 1, f"shadow: {capture}, shadow_requests: 20, drift: {{labels: 0, scores: 0}}")
    assert compared.text.startswith("shadow, 20 of 20 captured requests")
    assert (moved.passed, moved.numbers["requests"], moved.numbers["relabelled"]) == (True, 20, 0)


@pytest.mark.parametrize(
    ("file", "problem"),
    [("gone.tfrecord", "gone.tfrecord: No such file"), ("wine", "has no request to 'digits'")],
)
def test_a_file_without_requests_stops_it(versions: Versions, file: str, problem: str) -> None:
    path = versions.folder / "models/wine/1/assets.extra/golden.tfrecord" if file == "wine" else file
    with pytest.raises(GateError, match=problem):
        shadowed(versions, 2, f"shadow: {path}")


def test_without_a_file_nothing_is_replayed(versions: Versions) -> None:
    assert shadowed(versions, 2, "") == []


def test_a_version_that_is_not_there_is_no_answer(versions: Versions) -> None:
    one, gone = versions.reached("digits", 1), versions.reached("digits", 9)
    for gate in (evaluate, shadow):
        call: Any = gate
        with pytest.raises(GateError, match="the server: version 9: NOT_FOUND"):
            call(versions.fleet(rollout="shadow: requests.jsonl"), "digits", one, gone, never)


def test_the_manifest_keeps_what_the_builder_says(versions: Versions) -> None:
    manifest = read_manifest(versions.folder / "models/digits/1")
    metric = manifest.metrics["test_accuracy"]
    assert isinstance(metric, Metric)
    assert (metric.rows, metric.higher_is_better, metric.drop) == (360, True, None)
    assert manifest.evaluation is not None
    assert (manifest.evaluation.metric, manifest.evaluation.output, manifest.evaluation.rows) == (
        "accuracy",
        "scores",
        360,
    )
