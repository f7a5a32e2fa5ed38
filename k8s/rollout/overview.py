"""What there is to know of a rollout, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from tfserving.clients.printable import printable
from tfserving.k8s.rollout.progress import Kind
from tfserving.k8s.rollout.remaining import about, duration, left
from tfserving.k8s.rollout.state import Figure, State, Step


@dataclass(frozen=True)
class Line:
    """A line of what has happened, and when."""

    at: datetime
    text: str
    kind: Kind = "step"


def as_json(state: State, running: bool) -> dict[str, Any]:
    """A rollout as JSON has it; `running` says whether a shell is at it.

    `outcome` is `done`, `rolled-back` or, until it is over, null. `remaining_seconds` is null when it isn't known.
    """
    outcome = state.phase if state.over else None
    return {**asdict(state), "running": running, "outcome": outcome, "remaining_seconds": left(state, running)}


def headline(state: State, running: bool) -> str:
    """How far it is, how long it took or takes, and what goes on with it, in one line."""
    return printable(_headline(state, running))


def _headline(state: State, running: bool) -> str:
    if state.over:
        began = datetime.fromisoformat(state.started).astimezone()
        return f"{state}; began {began:%Y-%m-%d %H:%M:%S}, took {lasted(state)}"
    seconds = left(state, running)
    if seconds is not None:
        return f"{state}, {about(seconds)} left" if seconds else f"{state}, longer than expected"
    return f"{state}" if running else f"{state}; no shell is at it, `rollout start {state.model}` goes on"


def lines(state: State) -> list[Line]:
    """Each phase that was begun, and below it what its gates saw."""
    return [line for step, figures in parts(state) for line in _lines(step, figures)]


def parts(state: State) -> list[tuple[Step, list[Figure]]]:
    """Each phase that was begun, and what its gates saw: before the same phase was begun again."""
    found: list[tuple[Step, list[Figure]]] = [(step, []) for step in state.steps]
    for figure in state.figures:
        same = [part for part in found if part[0].phase == figure.phase]
        begun = [part for part in same if part[0].at <= figure.at] or same[:1]
        if begun:
            begun[-1][1].append(figure)
    return found


def title(step: Step) -> str:
    """What a step is called."""
    return f"{step.phase}, {step.weight} % have moved" if step.weight else step.phase


def lasted(state: State) -> str:
    """How long a rollout that is over took."""
    last = state.steps[-1].at if state.steps else state.started
    return duration((datetime.fromisoformat(last) - datetime.fromisoformat(state.started)).total_seconds())


def _lines(step: Step, figures: list[Figure]) -> Iterator[Line]:
    yield Line(datetime.fromisoformat(step.at), title(step))
    for figure in figures:
        yield Line(datetime.fromisoformat(figure.at), f"  {figure}", "step" if figure.passed else "bad")
