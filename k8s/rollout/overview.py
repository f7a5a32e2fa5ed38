"""A rollout as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from tfserving.clients.printable import printable
from tfserving.k8s.hints import recommended
from tfserving.k8s.rollout.progress import Kind
from tfserving.k8s.rollout.remaining import about, duration, left
from tfserving.k8s.rollout.state import Figure, State, Step


@dataclass(frozen=True)
class Line:
    """An event of a rollout, and its time."""

    at: datetime
    text: str
    kind: Kind = "step"


def as_json(state: State, running: bool) -> dict[str, Any]:
    """Return a rollout as JSON; `running` is whether a process runs it.

    `outcome` is `done` or `rolled-back`, and null until then. `remaining_seconds` is null when unknown.
    """
    found = asdict(state)
    return {
        **{_KEYS.get(key, key): value for key, value in found.items()},
        "steps": [{_KEYS.get(key, key): value for key, value in step.items()} for step in found["steps"]],
        "figures": [{**figure, "numbers": _numbers(figure["numbers"])} for figure in found["figures"]],
        "running": running,
        "outcome": state.phase if state.over else None,
        "remaining_seconds": left(state, running),
    }


# The keys of the stored state that get a unit.
_KEYS = {"weight": "weight_percent"}


def _numbers(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a figure, the rows of series and histograms as objects."""
    found = {**numbers}
    for side in ("new", "old"):
        if isinstance(outcome := found.get(side), dict):
            histogram = [{"up_to_ms": bound, "requests": count} for bound, count in outcome["histogram_ms"]]
            found[side] = {**{key: outcome[key] for key in outcome if key != "histogram_ms"}, "histogram": histogram}
    if "series" in found:
        found["series"] = [_moment(row) for row in found["series"]]
    return found


def _moment(row: Sequence[Any]) -> dict[str, Any]:
    """Return a row of a series as an object."""
    names = ("requests", "failed", "mean_ms")
    return {
        "seconds": row[0],
        "new": dict(zip(names, row[1:4], strict=True)),
        "old": dict(zip(names, row[4:7], strict=True)),
    }


def headline(state: State, running: bool) -> str:
    """Return the phase, the time it took or still takes, and how to resume it, in one line."""
    return printable(_headline(state, running))


def _headline(state: State, running: bool) -> str:
    if state.over:
        began = datetime.fromisoformat(state.started).astimezone()
        return f"{state}; began {began:%Y-%m-%d %H:%M:%S}, took {lasted(state)}"
    seconds = left(state, running)
    if seconds is not None:
        return f"{state}, {about(seconds)} left" if seconds else f"{state}, longer than expected"
    return (
        f"{state}" if running else f"{state}; stopped. Resume it with `{recommended(f'rollout start {state.model}')}`."
    )


def lines(state: State) -> list[Line]:
    """Return each phase that began, followed by the measurements of its gates."""
    return [line for step, figures in parts(state) for line in _lines(step, figures)]


def parts(state: State) -> list[tuple[Step, list[Figure]]]:
    """Return each phase that began, with the measurements of its gates until the same phase began again."""
    found: list[tuple[Step, list[Figure]]] = [(step, []) for step in state.steps]
    for figure in state.figures:
        same = [part for part in found if part[0].phase == figure.phase]
        begun = [part for part in same if part[0].at <= figure.at] or same[:1]
        if begun:
            begun[-1][1].append(figure)
    return found


def title(step: Step) -> str:
    """Return the name of a step."""
    return f"{step.phase}, {step.weight} % of the requests moved" if step.weight else step.phase


def lasted(state: State) -> str:
    """Return how long a finished rollout took, as text."""
    last = state.steps[-1].at if state.steps else state.started
    return duration((datetime.fromisoformat(last) - datetime.fromisoformat(state.started)).total_seconds())


def _lines(step: Step, figures: list[Figure]) -> Iterator[Line]:
    yield Line(datetime.fromisoformat(step.at), title(step))
    for figure in figures:
        yield Line(datetime.fromisoformat(figure.at), f"  {figure}", "step" if figure.passed else "bad")
