"""The steps in which a server goes from what it serves to what it is to serve.

    FIRST ─────────────► LOAD ──────────► LABEL ─────────► UNLOAD ───────────► LAST
    the version that     the others       labels move to   what nobody wants   and what clients without
    clients without a                     loaded versions  any more            a label got before
    label are to get

A request without a version and without a label gets the newest version that is loaded under the name. So the newest
that is wanted is loaded before the others, and the newest of before is unloaded after them: nobody gets a third one.
TensorFlow Serving assigns labels before it loads anything, so a label can only move to a version that is loaded
already. A step that changes nothing is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tfserving.serving.served import Served


@dataclass(frozen=True)
class Step:
    """What a step does, and what is served after it."""

    what: str
    served: tuple[Served, ...]


def steps(before: Sequence[Served], wanted: Sequence[Served]) -> list[Step]:
    """The steps from `before` to `wanted`, the last of which is `wanted`, even when it changes nothing.

    Every Served has the versions that are loaded, or will be, where the server chooses them itself, too.
    """
    there, goal = ({one.name: one for one in served} for served in (before, wanted))
    ways = [_way(there.get(one.name, one), one) for one in wanted]
    gone = [one for name, one in there.items() if name not in goal]
    stages = [
        # A name that is to go stays until nothing can fail any more.
        (*(way[number] for way in ways), *(gone if what in _STEPS[:3] else ()))
        for number, what in enumerate(_STEPS)
    ]
    made: list[Step] = []
    last = tuple(before)
    for what, now in zip(_STEPS[:-1], stages, strict=False):
        if _effect(now) not in (_effect(last), _effect(wanted)):
            # Where one step loads all, the first is that.
            made.append(Step(_STEPS[1] if _effect(now) == _effect(stages[1]) else what, now))
            last = now
    return [*made, Step(_STEPS[-1], tuple(wanted))]


_STEPS = (
    "loading the version that requests without a label get",
    "loading versions",
    "moving labels",
    "unloading versions",
    "serving what models.yaml names, and nothing else",
)


def _way(old: Served, new: Served) -> list[Served]:
    """What is served under a name after each step. A name that is new has no label that could move."""
    # A server that chooses the newest itself goes on to do that.
    if old == new or (old.newest and new.newest and old.labels == new.labels):
        return [new] * len(_STEPS)
    most, top, bottom = {*old.versions, *new.versions}, new.versions[-1:], old.versions[-1:]
    # One step does where none of the others could become the newest on the way.
    first = {*old.versions, *top} if _above(new.versions[:-1], old) else most
    least = {*new.versions, *bottom} if _above(old.versions[:-1], new) else {*new.versions}
    labels = {label: version for label, version in old.labels.items() if version in old.versions}
    # A request that has found what a label means must find that loaded: the label moves before its version goes.
    moving = [version for label, version in labels.items() if new.labels.get(label) != version]
    leaving = not {*moving} <= {*new.versions}
    return [
        _fixed(old, first, labels),
        _fixed(old, most, labels),
        _fixed(new, most, new.labels if leaving else labels),
        _fixed(new, least, new.labels),
        new,
    ]


def _above(versions: tuple[int, ...], one: Served) -> bool:
    """Whether one of the versions is newer than all of `one`."""
    return max(versions, default=0) > max(one.versions, default=0)


def _fixed(one: Served, versions: set[int], labels: Mapping[str, int]) -> Served:
    """`one` with these versions, of which the server chooses none itself, and labels."""
    return replace(one, versions=tuple(sorted(versions)), labels=labels, newest=False)


def _effect(served: Sequence[Served]) -> dict[str, tuple[tuple[int, ...], dict[str, int]]]:
    """What clients see of it."""
    return {one.name: (one.versions, dict(one.labels)) for one in served}
