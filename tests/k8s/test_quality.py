"""Metrics of manifests, compared before anything is loaded."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.manifests import sealed
from tfserving.clients.results import Signature, TensorInfo
from tfserving.foundation.evaluation import EvaluationError
from tfserving.foundation.golden import MANIFEST
from tfserving.k8s.rollout.labelled_rows import labelled_rows
from tfserving.k8s.rollout.quality import compare_metrics, require
from tfserving.k8s.rollout.state import Figure
from tfserving.k8s.rollout.target import GateError
from tfserving.serving.models_yaml.fleet import Fleet, FleetError, read_fleet

UP, DOWN = {"higher_is_better": True}, {"higher_is_better": False}
OF_360 = {**UP, "rows": 360}


def version(folder: Path, number: int, metrics: dict[str, Any]) -> Path:
    path = folder / str(number)
    (path / MANIFEST).parent.mkdir(parents=True)
    (path / MANIFEST).write_text(sealed({"metrics": metrics}))
    return path


def fleet(rollout: dict[str, Any] | None = None, model: dict[str, Any] | None = None) -> Fleet:
    digits = {"builder": "digits:build", "quality": model or {}}
    return Fleet.model_validate({"models": {"digits": digits}, "rollout": {"quality": rollout or {}}})


def compared(folder: Path, old: dict[str, Any], new: dict[str, Any], said: Fleet | None = None) -> list[Figure]:
    return compare_metrics(said or fleet(), "digits", version(folder, 1, old), version(folder, 2, new))


GOOD, BAD = 356 / 360, 19 / 360


def test_labelled_rows_are_not_for_a_signature_without_a_batch(tmp_path: Path) -> None:
    path = version(tmp_path / "models/digits", 2, {})
    np.savez(tmp_path / "rows.npz", start=np.zeros(10, np.float32), labels=np.zeros(10, np.float32))
    said = "evaluation: {file: rows.npz, signature: name}"
    (tmp_path / "models.yaml").write_text(f"models: {{digits: {{builder: 'm:build', {said}}}}}\n")
    read = read_fleet(tmp_path / "models.yaml")
    info = TensorInfo("float32", (None,))
    signatures = {"name": Signature("", {"start": info}, {"name": info})}
    assert labelled_rows(read, "digits", (2,), signatures) is not None
    (path / MANIFEST).write_text(json.dumps({"unbatched": ["name"]}))
    with pytest.raises(EvaluationError, match=r"rows\.npz: signature 'name' has no batch dimension, and labelled"):
        labelled_rows(read, "digits", (2,), signatures)


@pytest.mark.parametrize(
    ("limits", "old", "new", "passed", "words"),
    [
        # What is said in models.yaml, then in the manifest.
        ({"drop": 0.005}, {"value": GOOD, **UP}, {"value": BAD, **UP}, False,
         "test_accuracy 0.0528, version 1 has 0.9889; at most 0.005 less is allowed"),
        ({"drop": 0.005}, {"value": 0.9889, **UP}, {"value": 0.9839, **UP}, True,
         "test_accuracy 0.9839, version 1 has 0.9889; at most 0.005 less is allowed"),
        ({"drop": 0.005}, {"value": 0.9889, **UP}, {"value": 0.9838, **UP}, False, "0.005 less is allowed"),
        ({}, {"value": 0.9, **UP}, {"value": 0.88, **UP, "drop": 0.03}, True, "0.03 less is allowed"),
        ({"drop": 0.01}, {"value": 0.9, **UP}, {"value": 0.88, **UP, "drop": 0.03}, False, "0.01 less is allowed"),
        # A share of rows has noise that is known.
        ({}, {"value": GOOD, **OF_360}, {"value": GOOD - 0.01, **OF_360}, True,
         "test_accuracy 0.9789, version 1 has 0.9889; at most 0.0202 less is allowed (2 standard errors of 360 rows)"),
        ({}, {"value": GOOD, **OF_360}, {"value": GOOD - 0.03, **OF_360}, False, "2 standard errors of 360 rows"),
        ({}, {"value": 1, **OF_360}, {"value": 359 / 360, **OF_360}, True, "version 1 has 1; "),
        # Any other has 1 %.
        ({}, 0.9, 0.892, True, "0.009 less is allowed (1 % of the old value, since its noise is unknown)"),
        ({}, 0.9, 0.89, False, "0.009 less is allowed"),
        ({}, 0.9, 0.95, True, "0.009 less is allowed"),
        # A bound, which needs no version before.
        ({"at_least": 0.97}, {"value": 0.96, **UP}, {"value": 0.965, **UP}, False, "; at least 0.97 is required"),
        ({"at_least": 0.97}, None, {"value": 0.965, **UP}, False,
         "test_accuracy 0.965, version 1 has none: at least 0.97 is required"),
        ({"at_least": 0.9}, None, {"value": 0.965, **UP}, True, "test_accuracy 0.965, version 1 has none"),
        # What isn't there.
        ({}, {"value": 0.96, **UP}, None, False,
         "version 2 lacks the metric test_accuracy, version 1 has 0.96"),
        ({"at_least": 0.9}, None, None, False, "models.yaml has limits for it, and neither version 1 nor 2 has it"),
        # Which way is better is said once.
        ({"at_most": 0.9}, {"value": 0.96, **UP}, {"value": 0.96, **UP}, False, "disagree on whether higher is better"),
        ({}, {"value": 0.96, **UP}, {"value": 0.96, **DOWN}, False, "disagree on whether higher is better"),
        ({}, 0.96, {"value": 0.95, **DOWN}, True, "more is allowed"),
    ],
)  # fmt: skip
def test_a_metric_is_compared_with_that_of_the_version_before(
    tmp_path: Path, limits: dict[str, float], old: Any, new: Any, passed: bool, words: str
) -> None:
    said = fleet({"test_accuracy": limits} if limits else None)
    before, after = ({} if value is None else {"test_accuracy": value} for value in (old, new))
    (figure,) = compared(tmp_path, before, after, said)
    assert (figure.gate, figure.passed) == ("metric", passed)
    assert words in figure.text


@pytest.mark.parametrize(
    ("limits", "new", "passed"),
    [
        ({}, 0.1005, True),
        ({}, 0.11, False),
        ({}, 0.05, True),
        ({"rise": 0.02}, 0.11, True),
        ({"rise": 0.02}, 0.13, False),
        ({"at_most": 0.12, "rise": 1}, 0.13, False),
    ],
)
def test_a_loss_is_better_lower(tmp_path: Path, limits: dict[str, float], new: float, passed: bool) -> None:
    said = fleet({"test_loss": limits} if limits else None)
    (figure,) = compared(tmp_path, {"test_loss": 0.1}, {"test_loss": new}, said)
    assert figure.passed == passed
    assert " more is allowed" in figure.text


def test_a_metric_of_which_nobody_knows_which_way_is_better_is_shown_and_not_judged(tmp_path: Path) -> None:
    (figure,) = compared(tmp_path, {"rows": 3}, {"rows": 4})
    assert figure.passed
    assert figure.text.startswith("rows 4, version 1 has 3: not compared, since it is unknown whether higher is better")
    assert figure.numbers == {"metric": "rows", "new": 4, "old": 3, "higher_is_better": None}


def test_what_is_said_of_a_model_goes_before_what_is_said_of_all(tmp_path: Path) -> None:
    said = fleet({"accuracy": {"drop": 0.5}, "auc": {"drop": 0.5}}, {"accuracy": {"drop": 0.1}})
    figures = compared(tmp_path, {"accuracy": 0.9, "auc": 0.9}, {"accuracy": 0.7, "auc": 0.7}, said)
    assert {figure.numbers["metric"]: figure.passed for figure in figures} == {"accuracy": False, "auc": True}


def test_metrics_are_compared_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket is opened")

    monkeypatch.setattr(socket, "socket", refuse)
    figures = compared(tmp_path, {"accuracy": 0.9}, {"accuracy": 0.1})
    assert [figure.passed for figure in figures] == [False]


def test_a_manifest_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    old, new = version(tmp_path, 1, {"accuracy": 0.9}), version(tmp_path, 2, {"accuracy": 0.9})
    (new / MANIFEST).write_text(json.dumps({"metrics": {"accuracy": 0.99}, "digest": "0" * 64}))
    with pytest.raises(GateError, match="was changed: its digest does not match its contents"):
        compare_metrics(fleet(), "digits", old, new)


@pytest.mark.parametrize("said", ["models.digits.evaluation", "rollout.shadow"])
def test_a_file_that_a_later_gate_reads_must_be_there(tmp_path: Path, said: str) -> None:
    rows = "evaluation: gone.npz" if "evaluation" in said else "golden: []"
    shadow = "" if "evaluation" in said else "shadow: gone.npz"
    (tmp_path / "models.yaml").write_text(f"models: {{digits: {{builder: 'a:b', {rows}}}}}\nrollout: {{{shadow}}}\n")
    read = read_fleet(tmp_path / "models.yaml")
    old, new = version(tmp_path, 1, {}), version(tmp_path, 2, {})
    with pytest.raises(
        GateError, match=f"^{re.escape(said)}: the file {re.escape(str(tmp_path))}/gone.npz does not exist$"
    ):
        compare_metrics(read, "digits", old, new)
    (tmp_path / "gone.npz").write_bytes(b"")
    assert compare_metrics(read, "digits", old, new) == []


def test_the_first_figure_that_failed_stops_a_rollout_and_all_others_are_seen(tmp_path: Path) -> None:
    names = ("accuracy", "auc", "f1")
    figures = compared(tmp_path, dict.fromkeys(names, 0.9), {"accuracy": 0.9, "auc": 0.1, "f1": 0.2})
    seen: list[Figure] = []
    with pytest.raises(GateError) as stopped:
        require(figures, seen.append)
    assert stopped.value.figure == figures[1]
    assert seen == [figures[0], figures[2]]
    wanted = (
        "auc 0.1, version 1 has 0.9; at most 0.009 less is allowed (1 % of the old value, since its noise is unknown)"
    )
    assert str(stopped.value) == f"{wanted}; 1 more failed. Use --accept-quality to roll it out anyway."


def test_accepted_figures_are_warnings(tmp_path: Path) -> None:
    figures = compared(tmp_path, {"accuracy": 0.9, "auc": 0.9}, {"accuracy": 0.9, "auc": 0.1})
    seen: list[Figure] = []
    require(figures, seen.append, accept=True)
    assert [one.passed for one in seen] == [True, True]
    assert seen[0] == figures[0]
    assert seen[1].text == f"warning: {figures[1].text}; accepted by --accept-quality"
    assert seen[1].numbers["accepted"] is True


def test_failures_and_latency_are_not_accepted_with_quality() -> None:
    slow, moved = Figure("shadow", "too slow", passed=False), Figure("drift", "it moved", passed=False)
    seen: list[Figure] = []
    with pytest.raises(GateError, match=r"^too slow$") as stopped:
        require([slow, moved], seen.append, accept=True)
    assert stopped.value.figure == slow
    assert [one.text for one in seen] == ["warning: it moved; accepted by --accept-quality"]
    with pytest.raises(GateError, match=r"^too slow; 1 more failed$"):
        require([slow, moved], seen.append)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "quality: {loss: {}}",
            "models.digits.quality.loss: no limit is set; expected at_least, drop, at_most or rise",
        ),
        ("quality: {loss: {drop: 1, rise: 1}}", "drop is for metrics where higher is better, rise is for metrics"),
        ("quality: {loss: {drop: -1}}", "models.digits.quality.loss.drop: got -1, expected at least 0"),
        ("quality: {loss: {drop: .inf}}", "models.digits.quality.loss.drop: got .inf, expected a finite number"),
        ("evaluation: rows.csv", "got 'rows.csv', expected 'module:function' or a file"),
        ("evaluation: {metric: acuracy}", "got 'acuracy', expected accuracy, auc, mae"),
        ("evaluation: {file: a.npz, builder: 'a:b'}", "both file and builder are set; expected one of them"),
    ],
)
def test_what_cannot_be_said_of_quality_is_told_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(f"models:\n  digits:\n    builder: a:b\n    {line}\n")
    with pytest.raises(FleetError) as refused:
        read_fleet(file)
    assert str(refused.value).startswith(f"{file}:4: ")
    assert problem in str(refused.value)


def test_files_of_rows_and_of_captured_requests_are_relative_to_models_yaml(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: {digits: {builder: 'a:b', evaluation: rows.npz}}\nrollout: {shadow: log.tfrecord}\n")
    read = read_fleet(file)
    assert read.models["digits"].evaluation is not None
    assert read.models["digits"].evaluation.file == tmp_path / "rows.npz"
    assert read.rollout.shadow == tmp_path / "log.tfrecord"
