"""The steps in which a server changes what it serves.

    FIRST ─────────────► LOAD ──────────► LABEL ─────────► UNLOAD ──────────► LAST
    load the version     load the         move labels to   unload versions    unload the version that
    for requests         others           loaded versions                     requests without a label
    without a label                                                           got before

A request without a version and a label gets the newest version that is loaded under the name. So the new newest version
is loaded before the others, and the old newest version is unloaded after them: no request gets a third one. TensorFlow
Serving assigns labels before it loads versions, so a label can only move to a loaded version. A step that changes
nothing is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tfserving.serving.served import Served


@dataclass(frozen=True)
class Step:
    """A description of the step, and what is served after it."""

    what: str
    served: tuple[Served, ...]


def steps(before: Sequence[Served], wanted: Sequence[Served]) -> list[Step]:
    """Return the steps from `before` to `wanted`. The last one is `wanted`, even if it changes nothing.

    Every Served has the versions that are or will be loaded, also where the server chooses them itself.
    """
    there, goal = ({one.name: one for one in served} for served in (before, wanted))
    ways = [_way(there.get(one.name, one), one) for one in wanted]
    gone = [one for name, one in there.items() if name not in goal]
    stages = [
        # A name that is to be removed stays until nothing can fail any more.
        (*(way[number] for way in ways), *(gone if what in _STEPS[:3] else ()))
        for number, what in enumerate(_STEPS)
    ]
    made: list[Step] = []
    last = tuple(before)
    for what, now in zip(_STEPS[:-1], stages, strict=False):
        if _effect(now) not in (_effect(last), _effect(wanted)):
            # One step that loads all versions is called that, even if it is the first.
            made.append(Step(_STEPS[1] if _effect(now) == _effect(stages[1]) else what, now))
            last = now
    return [*made, Step(_STEPS[-1], tuple(wanted))]


_STEPS = (
    "loading the version that requests without a label get",
    "loading versions",
    "moving labels",
    "unloading versions",
    "serving the versions of models.yaml",
)


def _way(old: Served, new: Served) -> list[Served]:
    """Return what is served under a name after each step. A new name has no label that could move."""
    # A server that chooses the newest version itself keeps doing that.
    if old == new or (old.newest and new.newest and old.labels == new.labels):
        return [new] * len(_STEPS)
    most, top, bottom = {*old.versions, *new.versions}, new.versions[-1:], old.versions[-1:]
    # One step is enough if none of the others could be the newest in between.
    first = {*old.versions, *top} if _above(new.versions[:-1], old) else most
    least = {*new.versions, *bottom} if _above(old.versions[:-1], new) else {*new.versions}
    labels = {label: version for label, version in old.labels.items() if version in old.versions}
    # A request that has resolved a label needs its version loaded: the label moves before its version is unloaded.
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
    """Return whether one of the versions is newer than all of `one`."""
    return max(versions, default=0) > max(one.versions, default=0)


def _fixed(one: Served, versions: set[int], labels: Mapping[str, int]) -> Served:
    """Return `one` with exactly these versions and labels."""
    return replace(one, versions=tuple(sorted(versions)), labels=labels, newest=False)


def _effect(served: Sequence[Served]) -> dict[str, tuple[tuple[int, ...], dict[str, int]]]:
    """Return what clients see of it."""
    return {one.name: (one.versions, dict(one.labels)) for one in served}
