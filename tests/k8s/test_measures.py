"""Metrics of answers, and how much of a difference chance explains: known values, other libraries, and simulations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from tfserving.foundation.tensors import Array
from tfserving.k8s.rollout.measures import MeasureError, Outputs, function_of, labels_of, noise_of
from tfserving.k8s.rollout.quality import Allowed

RANDOM = np.random.default_rng(4)
SCORES = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [np.nan, 0.1]], np.float32)


def strings(*values: bytes | str) -> Array:
    return np.array(values, np.object_)


@pytest.mark.parametrize(
    ("output", "labels", "accuracy"),
    [
        (SCORES, np.array([1, 0, 0, 0]), 0.5),
        (np.array([1, 0, 1, 1]), np.array([1, 0, 0, 0]), 0.5),
        (np.array([[1], [0], [1], [1]]), np.array([1, 0, 1, 0]), 0.75),
        (np.array([0.9, 0.4, 0.6, np.nan]), np.array([1, 0, 1, 0]), 0.75),
        (np.array([0.9, 0.4, 0.6, 0.1]), np.array([True, False, False, False]), 0.75),
        (strings(b"a", b"b", b"c", b"d"), strings("a", "b", "c", b"x"), 0.75),
        (np.array([True, False, True, True]), np.array([True, False, False, False]), 0.5),
        # Every number of a row must be right.
        (np.array([[1, 2], [3, 4], [5, 6], [7, 8]]), np.array([[1, 2], [3, 0], [5, 6], [0, 0]]), 0.5),
    ],
)
def test_accuracy_is_the_share_of_rows_with_the_right_label(output: Array, labels: Array, accuracy: float) -> None:
    assert function_of("accuracy", "y")(labels, {"y": output}) == accuracy


def test_a_classification_is_right_by_its_classes_names_or_by_their_number() -> None:
    names = np.array([["no", "yes"]] * 3, np.object_)
    answers = {"classes": names, "scores": SCORES[:3]}
    for labels in (strings("yes", "no", "no"), np.array([1, 0, 0])):
        for output in answers:
            assert function_of("accuracy", output)(labels, answers) == pytest.approx(2 / 3)


def test_auc_is_that_of_another_library_ties_and_all() -> None:
    labels = RANDOM.integers(0, 2, 300)
    scores = np.round(labels * 0.3 + RANDOM.random(300), 1).astype(np.float32)
    wanted = roc_auc_score(labels, scores)
    for output in (scores, scores[:, None], np.stack([1 - scores, scores], axis=1)):
        assert function_of("auc", "y")(labels, {"y": output}) == pytest.approx(wanted)


def test_mae_is_the_mean_absolute_error() -> None:
    assert function_of("mae", "y")(np.array([1.0, 2, 3]), {"y": np.array([[2.0], [2], [0]], np.float32)}) == 4 / 3


def weighted(labels: Array, outputs: Outputs) -> Any:
    """A metric of a user's own: half the points for the label next to the right one."""
    return np.mean(np.maximum(0, 1 - np.abs(outputs["label"] - labels) / 2))


def failing(*_: object) -> float:
    raise KeyError("no such output")


def endless(*_: object) -> float:
    return math.nan


def test_a_function_of_ones_own_gets_labels_and_outputs() -> None:
    function = function_of("tests.k8s.test_measures:weighted", "")
    assert function(np.array([1, 2, 3]), {"label": np.array([1, 3, 9])}) == 0.5


@pytest.mark.parametrize(
    ("metric", "labels", "output", "problem"),
    [
        ("accuracy", strings("a"), np.array([1]), "with output 'y'"),
        ("accuracy", np.array([1]), np.array([[1, 2]]), "cannot compare labels of int64 (1,) with output 'y'"),
        ("mae", np.array([1.0]), strings("a"), "cannot compare"),
        ("mae", np.array([1.0, 2.0]), np.array([1.0, math.inf]), "is NaN or infinite in 1 of 2 rows"),
        ("auc", np.array([1, 0]), np.array([math.nan, 1.0]), "is NaN or infinite in 1 of 2 rows"),
        ("auc", np.array([1, 2]), np.array([1.0, 1.0]), "auc needs one label in each row, 0 or 1"),
        ("auc", np.array([1, 1]), np.array([1.0, 1.0]), "auc needs rows of both labels"),
        ("auc", np.array([1, 0]), np.ones((2, 3)), "auc needs one or two scores in each row"),
        ("tests.k8s.test_measures:failing", np.array([1]), np.array([1]), "raised KeyError: 'no such output'"),
        ("tests.k8s.test_measures:endless", np.array([1]), np.array([1]), "returned nan, expected a finite number"),
        ("tests.k8s.test_measures:RANDOM", np.array([1]), np.array([1]), "got Generator, expected a function"),
        (
            "tests.k8s.test_measures:nothing",
            np.array([1]),
            np.array([1]),
            "cannot import tests.k8s.test_measures:nothing: AttributeError",
        ),
        (
            "no.such.module:nothing",
            np.array([1]),
            np.array([1]),
            "cannot import no.such.module:nothing: ModuleNotFoundError",
        ),
    ],
)
def test_what_cannot_be_measured_is_said(metric: str, labels: Array, output: Array, problem: str) -> None:
    with pytest.raises(MeasureError) as error:
        function_of(metric, "y")(labels, {"y": output})
    assert problem in str(error.value)


def test_numbers_are_no_labels_where_nobody_says_so() -> None:
    assert labels_of("y", {"y": np.array([0.2, 0.9])}) is None
    assert labels_of("y", {"y": SCORES}) is not None


def noise(metric: str, labels: Array, new: Array, old: Array) -> tuple[float, float, dict[str, Any]]:
    """How much worse the new one is, how much worse it may be by chance, and the test's numbers."""
    function, upward = function_of(metric, "y"), metric != "mae"
    values = [function(labels, {"y": output}) for output in (new, old)]
    found = noise_of(metric, function, "y", labels, {"y": new}, {"y": old}, upward=upward)
    return (values[1] - values[0]) * (1 if upward else -1), found.worse, found.numbers


@pytest.mark.parametrize(("better", "worse"), [(3, 12), (3, 11), (0, 5), (0, 6), (10, 24), (10, 25), (5, 5), (9, 0)])
def test_accuracy_is_worse_when_the_exact_test_of_mcnemar_says_so(better: int, worse: int) -> None:
    labels = np.ones(100, np.int64)
    old, new = labels.copy(), labels.copy()
    old[:better] = 0
    new[better : better + worse] = 0
    apart, allowed, numbers = noise("accuracy", labels, new, old)
    p_value = binomtest(worse, worse + better, 0.5, alternative="greater").pvalue
    assert numbers["p_value"] == pytest.approx(p_value)
    assert Allowed(allowed).admits(apart) == (p_value > 0.025)


def versions(metric: str, shift: float) -> tuple[Array, Array, Array]:
    """Labels, and the outputs of a new and an old version; the new one is worse by about so much."""
    if metric == "mae":
        labels = RANDOM.normal(size=300)
        old, new = (labels + RANDOM.normal(size=300) for _ in range(2))
        return labels, new + shift * np.sign(new - labels), old
    zeros_and_ones = RANDOM.integers(0, 2, 300)
    scores = [zeros_and_ones * 1.5 + RANDOM.normal(size=300) for _ in range(2)]
    scores[0] -= 1.5 * shift * zeros_and_ones
    return zeros_and_ones, scores[0], scores[1]


@pytest.mark.parametrize(
    ("metric", "shift", "low", "high"),
    [("mae", 0, 0, 0.07), ("mae", 0.25, 0.9, 1), ("auc", 0, 0, 0.07), ("auc", 0.4, 0.9, 1)],
)
def test_chance_alone_seldom_makes_a_version_worse_and_a_worse_one_is_found(
    metric: str, shift: float, low: float, high: float
) -> None:
    found = [apart > allowed for apart, allowed, _ in (noise(metric, *versions(metric, shift)) for _ in range(100))]
    assert low <= np.mean(found) <= high


def test_the_same_answers_are_never_worse_and_the_noise_is_always_the_same() -> None:
    labels, new, old = versions("auc", 0.1)
    assert noise("auc", labels, old, old)[:2] == (0, 0)
    assert noise("auc", labels, new, old) == noise("auc", labels, new, old)


def sharpe(labels: Array, outputs: Outputs) -> float:
    """A metric that samples of rows may not have: there must be a row labelled 1."""
    return float(outputs["y"][labels == 1].mean()) if labels.any() else math.nan


def test_the_noise_of_a_function_of_ones_own_is_that_of_samples_which_have_it() -> None:
    metric = "tests.k8s.test_measures:sharpe"
    labels, new, old = versions("auc", 0)
    apart, allowed, numbers = noise(metric, labels, new, old)
    assert abs(apart) < 3 * allowed
    # Of the mean of about 150 normal differences.
    assert allowed == pytest.approx(1.96 * np.std((new - old)[labels == 1]) / np.sqrt(labels.sum()), rel=0.2)
    assert numbers["test"] == "bootstrap"
    rare = np.zeros(300, np.int64)
    rare[0] = 1
    assert math.isfinite(noise(metric, rare, new, old)[1])
    with pytest.raises(MeasureError, match="returned nan"):
        noise(metric, np.zeros(300, np.int64), new, old)
