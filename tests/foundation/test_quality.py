"""What a builder says of a version's quality, as it is checked, written, and read without trust."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfserving.foundation.evaluation import ROWS, EvaluationError, read_evaluation, write_evaluation
from tfserving.foundation.golden import MANIFEST
from tfserving.foundation.manifest import ManifestError, read_manifest_file
from tfserving.foundation.quality import Evaluation, Metric, figure, higher_is_better


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"value": math.nan}, "value: got nan, expected a finite number"),
        ({"value": True}, "value: got True, expected a finite number"),
        ({"value": np.float32(1)}, "converts one of numpy's"),
        ({"value": 1, "higher_is_better": None}, "higher_is_better: got None, expected True or False"),
        ({"value": 1, "drop": -0.1}, "drop: got -0.1, expected a finite number of at least 0"),
        ({"value": 1, "drop": math.inf}, "drop: got inf"),
        ({"value": 1, "rows": 0}, "rows: got 0, expected a number of rows of at least 1"),
        ({"value": 53.2, "rows": 89}, "53.2 is no share of rows. Leave `rows` out"),
    ],
)
def test_a_metric_that_means_nothing_is_refused(said: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=r"expected|Leave") as refused:
        Metric(**said)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("name", "up"),
    [
        ("test_accuracy", True),
        ("F1-score", True),
        ("val.auc", True),
        ("test_r2", True),
        ("training_loss", False),
        ("test_error_cm", False),
        ("RMSE", False),
        ("rows", None),
        ("accuracy_loss", None),
        ("glossary", None),
    ],
)
def test_a_well_known_name_says_which_way_is_better(name: str, up: bool | None) -> None:
    assert higher_is_better(name, 0.5) is up
    assert higher_is_better(name, Metric(0.5, higher_is_better=False)) is False


def test_figures_have_as_many_digits_as_tell_them_apart() -> None:
    assert [figure(value) for value in (0.05278, 0.98889, 53.2134, 40, 1e-6)] == [
        "0.0528",
        "0.9889",
        "53.21",
        "40",
        "1e-06",
    ]
    assert (figure(0.988889, 0.988888), figure(0.988888, 0.988889)) == ("0.988889", "0.988888")


def manifest(folder: Path, **said: object) -> None:
    (folder / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps({"files": {}, **said}))


def carried(folder: Path, evaluation: Evaluation) -> None:
    """Writes labelled rows and a manifest that lists them."""
    import hashlib

    write_evaluation(evaluation, "digits", folder)
    sha256 = hashlib.sha256((folder / ROWS).read_bytes()).hexdigest()
    said = {"signature": evaluation.signature, "output": evaluation.output, "metric": evaluation.metric_name}
    manifest(folder, files={ROWS: {"sha256": sha256}}, evaluation={**said, "rows": evaluation.rows, "drop": 0.01})


@pytest.mark.parametrize("labels", [np.arange(2500), np.array([f"{n} é" for n in range(2500)], np.object_)])
def test_labelled_rows_are_read_as_they_were_written(tmp_path: Path, labels: np.ndarray) -> None:
    rows = np.random.default_rng(0).normal(size=(2500, 3)).astype(np.float32)
    texts = np.array([b"\x00\xff" * (n % 4) for n in range(2500)], np.object_)
    carried(tmp_path, Evaluation({"rows": rows, "texts": texts}, labels, output="scores"))
    found = read_evaluation(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found.inputs["rows"], rows)
    assert found.inputs["texts"].tolist() == texts.tolist()
    assert [one.decode() if isinstance(one, bytes) else one for one in found.labels] == labels.tolist()
    assert (found.metric, found.output, found.signature, found.drop) == ("accuracy", "scores", "serving_default", 0.01)


def test_a_version_without_labelled_rows_has_none(tmp_path: Path) -> None:
    manifest(tmp_path)
    assert read_evaluation(tmp_path) is None


def test_labelled_rows_that_were_changed_are_refused(tmp_path: Path) -> None:
    carried(tmp_path, Evaluation({"rows": np.zeros((10, 3))}, np.zeros(10)))
    data = bytearray((tmp_path / ROWS).read_bytes())
    data[-20] ^= 1
    (tmp_path / ROWS).write_bytes(data)
    with pytest.raises(EvaluationError, match="it was changed"):
        read_evaluation(tmp_path)
    (tmp_path / ROWS).unlink()
    with pytest.raises(EvaluationError, match="No such file"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"metrics": {"accuracy": "high"}}, "metrics.'accuracy' is 'high', expected a number"),
        ({"metrics": {"accuracy": {"value": 0.5, "rank": 1}}}, "metrics.'accuracy': "),
        ({"metrics": {"accuracy": {"value": 2, "rows": 3}}}, "is no share of rows"),
        ({"metrics": {"accuracy": True}}, "metrics.'accuracy' is True"),
        ({"metrics": []}, "metrics is a list, expected an object"),
        ({"metrics": {}, "evaluation": {"signature": "x"}}, "evaluation: "),
        ({"metrics": {}, "evaluation": {"signature": 1, "output": "x", "metric": "mae", "rows": 1}}, "evaluation.sig"),
        ({"metrics": {}, "evaluation": 7}, "evaluation is 7, expected an object"),
    ],
)
def test_what_a_manifest_says_of_quality_is_read_without_trust(
    tmp_path: Path, said: dict[str, Any], problem: str
) -> None:
    manifest(tmp_path, **said)
    read = read_manifest_file(tmp_path / MANIFEST)
    with pytest.raises(ManifestError) as refused:
        read.metrics(), read.evaluation()
    assert problem in str(refused.value)
