"""How the variables of two versions differ by content. A variable that only has another name counts as equal.

    same key, same bytes ──► equal
    other key, same bytes ──► renamed
    same key, or the same name in TensorFlow ──► changed
    the rest ──► removed, added

The bytes are compared in pieces, so versions of any size take the same memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from math import sqrt
from pathlib import Path

import numpy as np

from tfserving.export.variables import NO_NAME, Variable, Variables
from tfserving.foundation.tensors import BY_NAME

Pair = tuple[Variable, Variable]


@dataclass(frozen=True)
class WeightChange:
    """A variable that differs between two versions.

    `what` is added, removed, renamed (its content is equal), changed, or the change of dtype or shape. `old_name` is
    its name in the old version, if that differs. For a changed variable, `largest` is the largest absolute difference,
    and `relative` is the root mean square of the differences divided by that of the old values.
    """

    variable: str
    what: str
    largest: float | None = None
    relative: float | None = None
    old_name: str | None = None


def weight_changes(old: Path, new: Path) -> tuple[list[WeightChange], int]:
    """Return the variables that differ between the SavedModels in `old` and `new`, and the number of equal ones.

    A renamed variable counts as equal. Raises ExportError when their files are damaged.
    """
    with Variables(old) as before, Variables(new) as after:

        def same(one: Variable, other: Variable) -> bool:
            return has_same_bytes(before, after, (one, other))

        left, right = dict(before), dict(after)
        equal = _paired(left, right, lambda one: one.key, same)
        renamed = _paired(left, right, lambda one: one.content, same)
        changed = _paired(left, right, lambda one: one.key, _any)
        changed += _paired(left, right, _own_name(left, right), _any)
        changes = [WeightChange(new.name, "renamed", old_name=old.name) for old, new in renamed]
        changes += [_change(before, after, pair) for pair in changed]
        changes += [WeightChange(one.name, "removed") for one in left.values()]
        changes += [WeightChange(one.name, "added") for one in right.values()]
        return sorted(changes, key=lambda change: change.variable), len(equal) + len(renamed)


def has_same_bytes(before: Variables, after: Variables, pair: Pair) -> bool:
    """Return whether two variables are equal, to the last bit."""
    old, new = pair
    return old.content == new.content and all(one == other for one, other in _pieces(before, after, pair))


def _paired(
    left: dict[str, Variable],
    right: dict[str, Variable],
    key: Callable[[Variable], Hashable],
    fits: Callable[[Variable, Variable], bool],
) -> list[Pair]:
    """Remove pairs with the same `key` that `fits` accepts from `left` and `right`, and return them.

    A variable whose key is None is in no pair.
    """
    waiting: dict[Hashable, list[Variable]] = defaultdict(list)
    for one in right.values():
        waiting[key(one)].append(one)
    pairs = []
    for one in list(left.values()):
        candidates = waiting.get(key(one), []) if key(one) is not None else []
        if found := next((other for other in candidates if fits(one, other)), None):
            pairs.append((one, found))
            candidates.remove(found)
            del left[one.key], right[found.key]
    return pairs


def _any(_: Variable, __: Variable) -> bool:
    return True


def _own_name(*sides: Mapping[str, Variable]) -> Callable[[Variable], str | None]:
    """Return a key function: the name in TensorFlow, if at most one variable on each side has it."""
    often = [Counter(one.own_name for one in side.values()) for side in sides]

    def key(one: Variable) -> str | None:
        unique = all(counted[one.own_name] <= 1 for counted in often)
        return one.own_name if unique and not NO_NAME.fullmatch(one.own_name) else None

    return key


def _change(before: Variables, after: Variables, pair: Pair) -> WeightChange:
    old, new = pair
    old_name = old.name if old.name != new.name else None
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        what = f"from {old.dtype} {old.shape} to {new.dtype} {new.shape}"
        return WeightChange(new.name, what, old_name=old_name)
    dtype = BY_NAME.get(new.dtype)
    if dtype is None or dtype.numpy.kind in "Ob" or not new.size:
        return WeightChange(new.name, "changed", old_name=old_name)
    largest = squares = apart_squares = 0.0
    for one, other in _pieces(before, after, pair):
        values, now = (np.frombuffer(piece, dtype.numpy) for piece in (one, other))
        wide = values.astype(np.complex128 if dtype.numpy.kind == "c" else np.float64)
        apart = np.abs(now - wide)
        largest = max(largest, float(apart.max()))
        squares += float(np.sum(np.abs(wide) ** 2))
        apart_squares += float(np.sum(apart**2))
    relative = sqrt(apart_squares / squares) if squares else None
    return WeightChange(new.name, "changed", largest, relative, old_name)


def _pieces(before: Variables, after: Variables, pair: Pair) -> Iterator[tuple[bytes, bytes]]:
    """Yield the bytes of two variables, piece by piece."""
    old, new = pair
    return zip_longest(before.pieces(old), after.pieces(new), fillvalue=b"")
