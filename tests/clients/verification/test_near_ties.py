"""Which labels count as near ties, for any scores: exactly those that right scores explain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tfserving.clients.verification.near_ties import judged
from tfserving.foundation.compare import Difference, Tolerance, compare
from tfserving.foundation.tensors import Array

# Of scores of about 1.
ALLOWED = 1e-3
TOLERANCE = Tolerance(ALLOWED, 0.0)


def array(values: Any, dtype: Any = np.float32) -> Array:
    return np.array(values, dtype)


def labels_of(scores: Array, kind: str) -> Array:
    best = scores.argmax(-1)
    return best if kind == "integers" else array([f"class {number}".encode() for number in best], np.object_)


def verdict(served: dict[str, Array], golden: dict[str, Array], tolerance: Tolerance | None = TOLERANCE) -> Difference:
    found = compare(served["label"], golden["label"], None)
    return judged(found, "label", served, golden, lambda array: tolerance if array.dtype.kind == "f" else None)


@st.composite
def tied(draw: st.DrawFn) -> tuple[Array, Array]:
    """Golden scores, and served ones within the tolerance. The best two of each row are near each other."""
    rows, classes = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    randomly = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    golden = randomly.uniform(-1, 0.9, (rows, classes))
    for row in golden:
        first, second = randomly.permutation(classes)[:2]
        row[first] = 1
        row[second] = 1 - randomly.uniform(0, 1.5) * ALLOWED
    served = golden + randomly.uniform(-0.99, 0.99, golden.shape) * ALLOWED
    return golden.astype(np.float32), served.astype(np.float32)


KINDS = pytest.mark.parametrize("kind", ["integers", "strings"])


@KINDS
@settings(max_examples=30)
@given(pair=tied())
def test_the_label_of_the_best_score_is_right_or_a_near_tie(kind: str, pair: tuple[Array, Array]) -> None:
    golden, served = pair
    found = verdict(
        {"label": labels_of(served, kind), "scores": served}, {"label": labels_of(golden, kind), "scores": golden}
    )
    flipped = int((golden.argmax(1) != served.argmax(1)).sum())
    assert found.verdict == ("near tie" if flipped else "equal")
    if flipped:
        assert (f", and {flipped - 1} more" in found.reason) == (flipped > 1)
        assert found.reason.endswith("in output 'scores'")


@KINDS
@settings(max_examples=30)
@given(pair=tied(), data=st.data())
def test_any_other_label_is_different(kind: str, pair: tuple[Array, Array], data: st.DataObject) -> None:
    golden, served = pair
    same = np.flatnonzero(golden.argmax(1) == served.argmax(1)).tolist()
    # A string may be any class's name, but not where the best class is the same.
    rows = list(range(len(golden))) if kind == "integers" else same
    assume(rows)
    row, wrong = data.draw(st.sampled_from(rows)), data.draw(st.integers(-1, golden.shape[1]))
    assume(wrong not in (served[row].argmax(), golden[row].argmax()))
    label = labels_of(served, kind)
    label[row] = wrong if kind == "integers" else f"class {wrong}".encode()
    found = verdict({"label": label, "scores": served}, {"label": labels_of(golden, kind), "scores": golden})
    assert found.verdict == "different"


@KINDS
@settings(max_examples=30)
@given(pair=tied(), excess=st.floats(1.1, 1000))
def test_scores_beyond_the_tolerance_excuse_no_label(kind: str, pair: tuple[Array, Array], excess: float) -> None:
    golden, served = pair
    flipped = golden.argmax(1) != served.argmax(1)
    assume(flipped.any())
    row = int(flipped.argmax())
    served[row, served[row].argmax()] = np.float32(golden[row].max() + excess * ALLOWED)
    found = verdict(
        {"label": labels_of(served, kind), "scores": served}, {"label": labels_of(golden, kind), "scores": golden}
    )
    assert found.verdict == "different"


@KINDS
@settings(max_examples=30)
@given(pair=tied())
def test_labels_must_be_equal_where_scores_must(kind: str, pair: tuple[Array, Array]) -> None:
    golden, served = pair
    assume((golden.argmax(1) != served.argmax(1)).any())
    outputs = (
        {"label": labels_of(served, kind), "scores": served},
        {"label": labels_of(golden, kind), "scores": golden},
    )
    assert verdict(*outputs, tolerance=None).verdict == "different"


@settings(max_examples=30)
@given(pair=tied(), best=st.integers(2, 5))
def test_the_best_classes_in_another_order_are_a_near_tie(pair: tuple[Array, Array], best: int) -> None:
    golden, served = pair
    best = min(best, golden.shape[1])
    orders = [np.argsort(-scores, 1, kind="stable")[:, :best] for scores in (served, golden)]
    assume((np.sort(orders[0]) == np.sort(orders[1])).all())
    outputs = [
        {"label": order, "scores": np.take_along_axis(scores, order, 1)}
        for order, scores in zip(orders, (served, golden), strict=True)
    ]
    found = verdict(*outputs)
    assert found.verdict == ("equal" if (orders[0] == orders[1]).all() else "near tie")


SCORES = array([[0.1, 0.5001, 0.5]])
FLIPPED = array([[0.1, 0.5, 0.5001]])


def test_a_near_tie_is_described_by_its_row_its_labels_and_their_scores() -> None:
    found = verdict({"label": array([2], np.int64), "p": FLIPPED}, {"label": array([1], np.int64), "p": SCORES})
    assert found.verdict == "near tie"
    assert found.reason == (
        "[0]: got 2, expected 1: a near tie, with the scores 0.5001 and 0.5, expected 0.5 and 0.5001, in output 'p'"
    )
    assert found.absolute == 1.0
    best = {"label": array([[1, 2]], np.int32), "p": array([[0.5001, 0.5]])}
    found = verdict({**best, "label": array([[2, 1]], np.int32)}, best)
    assert found.reason == (
        "[0, 0]: got 2, expected 1, and 1 more: a near tie, with the scores 0.5001 and 0.5, "
        "expected 0.5 and 0.5001, in output 'p'"
    )


@pytest.mark.parametrize(
    ("served", "golden", "served_scores", "scores"),
    [
        # The classes are no tie.
        (2, 1, [[0.1, 0.6, 0.5]], [[0.1, 0.6, 0.5]]),
        (2, 1, [[0.1, 0.5, 0.6]], [[0.1, 0.6, 0.5]]),
        # The golden label is not that of the best score.
        (2, 0, FLIPPED, SCORES),
        # The served label is not that of the best served score.
        (0, 1, FLIPPED, SCORES),
        (7, 1, FLIPPED, SCORES),
        (-1, 1, FLIPPED, SCORES),
        (2, 1, SCORES, SCORES),
        # One score, and scores that are no numbers.
        (2, 1, [[0.5]], [[0.5]]),
        (2, 1, [[np.nan, 0.5, 0.5001]], [[np.nan, 0.5001, 0.5]]),
        (2, 1, [[np.inf, 0.5, 0.5001]], [[np.inf, 0.5001, 0.5]]),
    ],
)
def test_what_scores_do_not_explain_is_different(served: int, golden: int, served_scores: Any, scores: Any) -> None:
    outputs = (
        {"label": array([served], np.int64), "p": array(served_scores)},
        {
            "label": array([golden], np.int64),
            "p": array(scores),
        },
    )
    assert verdict(*outputs).verdict == "different"


def test_without_scores_by_class_a_label_cannot_be_judged() -> None:
    served, golden = {"label": array([2], np.int64)}, {"label": array([1], np.int64)}
    said = "[0]: got 2, expected 1; the response has no scores by class, so a near tie can't be told from an error"
    assert verdict(served, golden).reason == said
    # One score for each row is that of its label.
    assert verdict({**served, "p": array([0.5])}, {**golden, "p": array([0.5])}).reason == said
    # An array of integers is no label.
    numbers = {"label": array([[1, 2]], np.int64)}
    assert verdict({"label": array([[1, 3]], np.int64)}, numbers).reason == "[0, 1]: got 3, expected 2"


def test_a_label_of_one_example_and_labels_of_places_have_their_scores() -> None:
    one = {"label": array(1, np.int64), "p": SCORES[0]}
    assert verdict({"label": array(2, np.int64), "p": FLIPPED[0]}, one).verdict == "near tie"
    column = {"label": array([[1]], np.int64), "p": SCORES}
    assert verdict({"label": array([[2]], np.int64), "p": FLIPPED}, column).verdict == "near tie"
    mask = {"label": array([[[1, 1], [1, 1]]], np.int64), "p": np.broadcast_to(SCORES, (1, 2, 2, 3))}
    found = verdict({"label": array([[[1, 2], [1, 2]]], np.int64), "p": np.broadcast_to(FLIPPED, (1, 2, 2, 3))}, mask)
    assert found.verdict == "near tie"


def test_classes_that_are_excluded_by_an_infinite_score_do_not_matter() -> None:
    golden, served = SCORES.copy(), FLIPPED.copy()
    golden[0, 0] = served[0, 0] = -np.inf
    outputs = {"label": array([2], np.int64), "p": served}, {"label": array([1], np.int64), "p": golden}
    assert verdict(*outputs).verdict == "near tie"
    served[0, 0] = 0.1
    assert verdict(*outputs).verdict == "different"


def test_a_name_that_belongs_to_another_class_is_no_near_tie() -> None:
    scores, flipped = np.concatenate([SCORES, [[0.9, 0.1, 0.1]]]), np.concatenate([FLIPPED, [[0.9, 0.1, 0.1]]])
    golden = {"label": array([b"b", b"a"], np.object_), "p": scores}
    assert verdict({"label": array([b"c", b"a"], np.object_), "p": flipped}, golden).verdict == "near tie"
    assert verdict({"label": array([b"a", b"a"], np.object_), "p": flipped}, golden).verdict == "different"
    # Where the same class has the best score, its name must be the same.
    assert verdict({"label": array([b"c", b"a"], np.object_), "p": scores}, golden).verdict == "different"


def test_floats_and_other_shapes_are_not_judged() -> None:
    golden = {"label": array([1], np.int64), "p": SCORES}
    other = Difference("different", reason="got shape (2,), expected (1,)")
    assert judged(other, "label", {"label": array([1, 2], np.int64), "p": SCORES}, golden, lambda _: TOLERANCE) is other
    far = compare(SCORES + 1, SCORES, TOLERANCE)
    assert judged(far, "p", {**golden, "p": SCORES + 1}, golden, lambda _: TOLERANCE) is far
