"""How far answers move: which rows count as relabelled, and what distances are."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from tests.k8s.reached import Server
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.tensors import Array
from tfserving.k8s.rollout.drift import Moved
from tfserving.k8s.rollout.pairs import Response
from tfserving.k8s.rollout.state import Figure
from tfserving.k8s.rollout.target import Reached
from tfserving.serving.models_yaml.quality import Drift

NEW = Reached(Server("server", "127.0.0.1:1", "127.0.0.1:2"), "digits", 2)
RANDOM = np.random.default_rng(5)


def moved(old: dict[str, Array], new: dict[str, Array]) -> Moved:
    found = Moved()
    found.add("serving_default", Response(old), Response(new))
    return found


def figure(found: Moved, **settings: float) -> Figure:
    made = found.figure(Drift(**settings), NEW)
    json.dumps(asdict(made), allow_nan=False)
    return made


@pytest.mark.parametrize(
    ("old", "new", "relabelled"),
    [
        (np.array([1, 2, 3]), np.array([1, 2, 4]), (1, 3)),
        (np.array(["a", "b"], np.object_), np.array([b"a", b"c"], np.object_), (1, 2)),
        (np.array([[1, 2], [3, 4]]), np.array([[1, 0], [3, 4]]), (1, 2)),
        (np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.6, 0.4], [0.7, 0.3]]), (1, 2)),
        (np.array([[0.9, 0.1]]), np.array([[np.nan, 0.1]]), (1, 1)),
        # Numbers are no labels.
        (np.array([0.1, 0.2]), np.array([0.9, 0.2]), (0, 0)),
    ],
)
def test_rows_with_another_label_are_counted(old: Array, new: Array, relabelled: tuple[int, int]) -> None:
    found = moved({"y": old}, {"y": new})
    assert (found.relabelled, found.rows) == relabelled


def test_an_output_that_is_a_label_says_it_and_not_the_scores() -> None:
    same = np.array([1, 2])
    scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    found = moved({"label": same, "scores": scores}, {"label": same, "scores": scores[::-1]})
    assert (found.relabelled, found.rows) == (0, 2)


TIED = np.array([[0.5, 0.49999], [0.5, 0.49999], [0.2, 0.8]], np.float32)
FLIPPED = np.array([[0.49999, 0.5], [0.3, 0.7], [0.8, 0.2]], np.float32)


@pytest.mark.parametrize(
    ("tolerances", "near_ties"),
    [
        ({"float32": Tolerance(0, 0, 1e-4)}, 1),
        ({"float32": Tolerance(1e-6, 1e-6, 0)}, 0),
        ({"float64": Tolerance(1, 1, 1)}, 0),
        ({}, 0),
    ],
)
@pytest.mark.parametrize("labels", [True, False])
def test_a_label_that_changes_at_a_near_tie_is_no_other_label(
    labels: bool, tolerances: dict[str, Tolerance], near_ties: int
) -> None:
    """As where one version runs on a CPU and the other one on a GPU. Other labels are counted still."""
    found = Moved(tolerances=tolerances)
    sides = [{"scores": scores, **({"label": scores.argmax(1)} if labels else {})} for scores in (TIED, FLIPPED)]
    found.add("serving_default", *map(Response, sides))
    assert (found.near_ties, found.relabelled, found.rows) == (near_ties, 3 - near_ties, 3)
    made = figure(found, labels=0.7)
    assert made.passed == bool(near_ties)
    assert made.numbers["near_ties"] == near_ties
    assert ("1 more have another label at a near tie of scores" in made.text) == bool(near_ties)


def test_a_label_of_other_scores_is_no_near_tie() -> None:
    """A label may change for itself, and a NaN is no score."""
    everything = {"float32": Tolerance(1, 1, 1)}
    for old, new in (
        ({"label": np.array([1]), "scores": TIED[:1]}, {"label": np.array([0]), "scores": TIED[:1]}),
        ({"scores": TIED[:1]}, {"scores": np.array([[np.nan, 0.5]], np.float32)}),
        # Not the scores of this row.
        ({"label": np.array([1]), "scores": TIED[:2]}, {"label": np.array([0]), "scores": FLIPPED[:2]}),
    ):
        found = Moved(tolerances=everything)
        found.add("serving_default", Response(old), Response(new))
        assert (found.near_ties, found.relabelled) == (0, 1)


def test_a_row_of_several_labels_counts_once() -> None:
    old = {"day": np.array([1, 2, 3]), "hour": np.array([1, 2, 3])}
    new = {"day": np.array([0, 0, 3]), "hour": np.array([0, 2, 3])}
    assert moved(old, new).relabelled == 2


def test_distances_are_those_of_the_columns_distributions() -> None:
    old, new = RANDOM.random((50, 2)), RANDOM.random((50, 2)) + np.array([0.0, 0.5])
    found = Moved()
    for rows in (slice(0, 20), slice(20, 50)):
        found.add("serving_default", Response({"y": old[rows]}), Response({"y": new[rows]}))
    move = found.moves()["serving_default y"]
    assert move.mean == pytest.approx(np.abs(new - old).mean())
    wanted = [wasserstein_distance(old[:, column], new[:, column]) for column in range(2)]
    assert move.distance == pytest.approx(np.mean(wanted))


def test_all_is_printed_and_nothing_fails_unless_it_is_asked_for() -> None:
    old, new = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.5, 0.5], [0.7, 0.3]])
    found = moved({"scores": old}, {"scores": new})
    shown = figure(found)
    text = "drift: 1 of 2 rows change their label (50.0 %); scores: mean difference 0.45, distance 0.25"
    assert (shown.passed, shown.text, shown.where) == (True, text, "server")
    assert figure(found, labels=0.5, scores=0.25).passed
    assert figure(found, labels=0.4).text == f"{text}; at most 40 % are allowed"
    assert figure(found, scores=0.1).text == f"{text}; a distance of at most 0.1 is allowed"
    assert not figure(found, labels=0.4).passed
    assert not figure(found, scores=0.1).passed


def test_numbers_that_are_not_finite_any_more_are_beyond_any_distance() -> None:
    found = moved({"y": np.array([1.0, 2.0, np.inf])}, {"y": np.array([1.0, np.nan, np.inf])})
    assert figure(found).text == "drift: y: mean difference 0, distance 0, 1 no longer finite"
    assert not figure(found, scores=100.0).passed


def test_a_request_that_the_new_version_fails_alone_is_a_failure() -> None:
    answer, refusal = Response({"y": np.array([1])}), Response(failure="INVALID_ARGUMENT: no")
    found = Moved()
    found.add("serving_default", refusal, answer)
    found.add("serving_default", refusal, refusal)
    assert figure(found).passed
    found.add("serving_default", answer, refusal)
    shown = figure(found)
    assert not shown.passed
    assert shown.text.endswith("only version 2 fails 1 requests (INVALID_ARGUMENT: no)")
    assert (shown.numbers["failures"], shown.numbers["failed_before"]) == ({"INVALID_ARGUMENT: no": 1}, 2)
