"""Labels that differ because two classes have as good as equal scores.

A model computes scores and returns the label of the best one. Where the two best golden scores are closer than the
tolerance, a server whose scores are right may return the other label. That is no error: it is a near tie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tfserving.foundation.compare import Difference, Tolerance, is_float
from tfserving.foundation.tensors import STRING, Array, dtype_of

ToleranceOf = Callable[[Array], Tolerance | None]
Floats = npt.NDArray[np.float64]

_NO_SCORES = "; the response has no scores by class, so a near tie can't be told from an error"


def judged(
    difference: Difference, name: str, served: Mapping[str, Array], golden: Mapping[str, Array], tolerance: ToleranceOf
) -> Difference:
    """Return `difference`, that of output `name`, as a near tie if it is one.

    `served` and `golden` are all outputs of the two responses. `tolerance` returns the tolerance for an output, None if
    it must be equal.
    """
    if difference.verdict != "different" or not _comparable(served[name], golden[name]) or not _is_label(golden[name]):
        return difference
    labels, found = _Labels(served[name], golden[name]), False
    # Scores can be infinite.
    with np.errstate(invalid="ignore", over="ignore"):
        for other, scores, of_class in _scores(name, served, golden, tolerance):
            found = True
            text = labels.flipped(scores) if of_class else labels.reordered(scores)
            if text:
                return replace(difference, verdict="near tie", reason=f"{text} in output {other!r}")
    per_row = golden[name].ndim <= 1 or golden[name].shape[-1] == 1
    return difference if found or not per_row else replace(difference, reason=difference.reason + _NO_SCORES)


class _Scores:
    """Served and golden scores and the allowed differences, each of shape (rows, classes)."""

    def __init__(self, served: Array, golden: Array, tolerance: Tolerance) -> None:
        classes = golden.shape[-1]
        self.served: Floats = served.astype(np.float64).reshape(-1, classes)
        self.golden: Floats = golden.astype(np.float64).reshape(-1, classes)
        self.allowed: Floats = tolerance.allowed(golden.astype(np.float64)).reshape(-1, classes)

    def right(self, rows: Any, served: Any = slice(None), golden: Any = slice(None)) -> Any:
        """Return whether the served scores of `rows` are within the tolerance of the golden ones, by class."""
        one, other = self.served[rows, served], self.golden[rows, golden]
        # Infinities are equal to their own, such as the scores of classes that are excluded.
        return (one == other) | (np.abs(one - other) <= self.allowed[rows, golden])

    def tied(self, rows: Any, one: Any, other: Any) -> Any:
        """Return by row whether the golden scores of two classes are so close that each may be the best one."""
        apart = np.abs(self.golden[rows, one] - self.golden[rows, other])
        return apart < self.allowed[rows, one] + self.allowed[rows, other]


class _Labels:
    """The labels of two responses, of the same shape, and the places where they differ."""

    def __init__(self, served: Array, golden: Array) -> None:
        self._shape = golden.shape
        self._served, self._golden = served.reshape(-1), golden.reshape(-1)
        self._differing = np.flatnonzero(np.asarray(self._served != self._golden, np.bool_))

    def flipped(self, scores: _Scores) -> str:
        """Return the description of near ties of labels, one for each row of `scores`; "" if one differs otherwise.

        The golden label is the class of the best golden score, the served label that of the best served score, and both
        classes are tied. Strings name classes: no label may name one class here and another class in another row.
        """
        rows = self._differing
        golden, served = scores.golden[rows], scores.served[rows]
        if not scores.right(rows).all():
            return ""
        if self._golden.dtype.kind in "iu":
            wanted, got = self._golden[rows], self._served[rows]
            classes = scores.golden.shape[1]
            if not all(((side >= 0) & (side < classes)).all() for side in (wanted, got)):
                return ""
            wanted, got = wanted.astype(np.intp), got.astype(np.intp)
        else:
            wanted, got = golden.argmax(1), served.argmax(1)
            named = dict(zip(self._golden, scores.golden.argmax(1), strict=True))
            names = {number: label for label, number in named.items()}
            if any(
                named.get(label, number) != number or names.get(number, label) != label
                for label, number in zip(self._served[rows], got, strict=True)
            ):
                return ""
        every = np.arange(len(rows))
        best = (golden[every, wanted] == golden.max(1)) & (served[every, got] == served.max(1))
        if not (best & (wanted != got) & scores.tied(rows, wanted, got)).all():
            return ""
        pair = [got[0], wanted[0]]
        return self._text(served[0, pair], golden[0, pair])

    def reordered(self, scores: _Scores) -> str:
        """Return the description of near ties of labels that are sorted by `scores`; "" if one differs otherwise.

        Each label has a score, as the best classes of a row have. A row has the same labels in another order, each with
        its own score, and those that changed places are tied.
        """
        for row in np.unique(self._differing // self._shape[-1]).tolist():
            wanted, got = self._row(row)
            places = {label: place for place, label in enumerate(wanted)}
            if len(places) < len(wanted) or set(got) != places.keys():
                return ""
            here = np.arange(len(got))
            there = np.array([places[label] for label in got])
            own = scores.right(row, here, there)
            if not (own & ((here == there) | scores.tied(row, here, there))).all():
                return ""
        row, place = divmod(int(self._differing[0]), self._shape[-1])
        wanted, got = self._row(row)
        served = scores.served[row, [place, got.index(wanted[place])]]
        return self._text(served, scores.golden[row, [wanted.index(got[place]), place]])

    def _row(self, row: int) -> tuple[list[Any], list[Any]]:
        part = slice(row * self._shape[-1], (row + 1) * self._shape[-1])
        return self._golden[part].tolist(), self._served[part].tolist()

    def _text(self, served: Floats, expected: Floats) -> str:
        """Return the first difference; the scores are those of the served and of the golden label."""
        flat = int(self._differing[0])
        place = ", ".join(str(int(index)) for index in np.unravel_index(flat, self._shape))
        got, wanted = (_shown(labels[flat]) for labels in (self._served, self._golden))
        more = f", and {len(self._differing) - 1} more" if len(self._differing) > 1 else ""
        return (
            f"[{place}]: got {got}, expected {wanted}{more}: a near tie, with the scores "
            f"{served[0]:.7g} and {served[1]:.7g}, expected {expected[0]:.7g} and {expected[1]:.7g},"
        )


def _scores(
    name: str, served: Mapping[str, Array], golden: Mapping[str, Array], tolerance: ToleranceOf
) -> Iterator[tuple[str, _Scores, bool]]:
    """Return the outputs that may be the scores of the labels in output `name`.

    The flag tells whether they have a score for each class, or one for each label.
    """
    shape = golden[name].shape
    for other, scores in golden.items():
        if not is_float(scores) or other not in served or not _comparable(served[other], scores):
            continue
        allowed = tolerance(scores)
        if allowed is None or scores.ndim < 1 or scores.shape[-1] < 2:  # noqa: PLR2004 - a tie is of two
            continue
        rows = scores.shape[:-1]
        if shape in (rows, (*rows, 1)):
            yield other, _Scores(served[other], scores, allowed), True
        elif shape == scores.shape and scores.ndim > 1:
            yield other, _Scores(served[other], scores, allowed), False


def _comparable(served: Array, golden: Array) -> bool:
    return served.shape == golden.shape and dtype_of(served) is dtype_of(golden)


def _is_label(array: Array) -> bool:
    return array.dtype.kind in "iu" or dtype_of(array) is STRING


def _shown(label: object) -> str:
    return repr(label) if isinstance(label, (bytes, str)) else str(label)
