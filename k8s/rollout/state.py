"""Where a rollout is: one state machine, whatever it moves and wherever the servers are.

    start ──► LOADING ──► PROVING ──► CANARY ──► STABLE ──► BAKING ──► UNLOADING ──► DONE
                 │            │          │        ▲ │          │
                 │            │          │        └─┤ by pods, once for each weight
                 └────────────┴──────────┴──────────┴──────────┴──► ROLLING_BACK ──► ROLLED_BACK
                     a gate fails, a version doesn't load, or `abort`

           in place                                          by pods
LOADING    every server loads the new version, under the     a second Deployment, whose pods serve the new
           name of the model's canary                        version; nobody sends them requests
PROVING    every server gets its golden requests             its pods do
CANARY     quality, latency and drift are compared with the old version's
STABLE     every server loads it under the model's own       routes give the second Deployment 5, 25, 50, 100 %
           name, and `stable` moves; after the first one     of the requests; each time what comes of them is
           what comes of requests is compared                compared
BAKING     all requests go to the new version for a while
UNLOADING  the old version goes                              pods of the new version take the place of the old
                                                             ones, requests go to them, the others go

In STABLE and BAKING a probe sends golden requests the way that clients take (`probe`); what comes of them is judged as
the metrics are.

A manual rollout waits before STABLE for `promote`; `pause` holds one before its next phase until then. From UNLOADING
on there is no way back but `undo`. Every phase can be done again: whoever continues after a crash begins with the one
that is noted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, TypeAlias

from tfserving.clients.limits import MOST_SHOWN
from tfserving.clients.printable import shortened
from tfserving.serving.kept import parsed

# The longest text of a state. A ConfigMap, which has one, holds 1 MiB at most:
# https://kubernetes.io/docs/concepts/configuration/configmap/.
MOST_CHARACTERS = 512 << 10
# Somebody who interrupts a rollout and goes on with it again and again makes more steps than phases.
_MOST_STEPS = 200

Phase: TypeAlias = Literal[
    "loading", "proving", "canary", "stable", "baking", "unloading", "done", "rolling-back", "rolled-back"
]
NEXT: dict[Phase, Phase] = {
    "loading": "proving",
    "proving": "canary",
    "canary": "stable",
    "stable": "baking",
    "baking": "unloading",
    "unloading": "done",
    "rolling-back": "rolled-back",
}
# How: by what every server is told, or by other pods beside those that there are.
WayName: TypeAlias = Literal["in-place", "pods"]
# What another shell may ask of the one that rolls out.
Request: TypeAlias = Literal["pause", "promote", "abort"]
# What a gate looks at.
Gate: TypeAlias = Literal[
    "metric", "golden", "latency", "evaluation", "drift", "shadow", "command", "clients", "probe", "address"
]


@dataclass(frozen=True)
class Figure:
    """What a gate saw: a sentence for people, and the same as numbers.

    `where` is the server or the pods that it is about, `at` when it was (ISO 8601). What comes of requests to two
    versions has in `numbers` the form of `tfserving.k8s.rollout.judge.Comparison.numbers`.
    """

    # What has more in it than this is of another form.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - as pydantic has it
    gate: Gate
    text: str
    passed: bool = True
    where: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    phase: Phase = "loading"
    at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def __str__(self) -> str:
        """The sentence, with the server in it."""
        return self.text if not self.where or self.text.startswith(self.where) else f"{self.where}: {self.text}"


@dataclass(frozen=True)
class Step:
    """A phase that was begun `at` that time (ISO 8601); by pods, so many percent of the requests had moved before."""

    # What has more in it than this is of another form.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - as pydantic has it
    phase: Phase
    weight: int
    at: str


@dataclass(frozen=True)
class State:
    """A rollout of `model` from version `old` to `new`, as it is kept.

    `labels` are those that models.yaml had before it, `versions` what servers had under the model's own name, and
    `after` what they have there when it is done. `reason` says why it went back, `figures` what its gates saw, `steps`
    when each phase began, and `until` when the last of them ends if no gate fails (ISO 8601; empty when not known).
    By pods, `weight` is how many percent of the requests the new ones have got and passed with. `accept_quality` says
    that a version of lower quality may go on.
    """

    # What has more in it than this is of another form.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - as pydantic has it
    model: str
    old: int
    new: int
    labels: dict[str, int]
    versions: tuple[int, ...]
    after: tuple[int, ...]
    way: WayName = "in-place"
    phase: Phase = "loading"
    weight: int = 0
    paused: bool = False
    manual: bool = False
    accept_quality: bool = False
    reason: str = ""
    figures: tuple[Figure, ...] = ()
    steps: tuple[Step, ...] = ()
    until: str = ""
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.phase in ("done", "rolled-back")

    @property
    def returnable(self) -> bool:
        """Whether it can still be aborted."""
        return self.phase in ("loading", "proving", "canary", "stable", "baking")

    def next(self) -> State:
        """The state after this phase is done."""
        return replace(self, phase=NEXT[self.phase])

    def begun(self, seconds: float | None) -> State:
        """The state with its phase begun now; `seconds` are left until the rollout is over, None when not known."""
        now = datetime.now(timezone.utc)
        step = Step(self.phase, self.weight, now.isoformat(timespec="seconds"))
        until = "" if seconds is None else (now + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        return replace(self, steps=(*self.steps, step)[-_MOST_STEPS:], until=until)

    def back(self, reason: str) -> State:
        """The state after this phase has failed."""
        return replace(self, phase="rolling-back", reason=reason, paused=False)

    def text(self) -> str:
        """As JSON, in ASCII, of at most MOST_CHARACTERS.

        Of figures that don't fit, the `series` go first, the oldest before the others; then all numbers; then figures.
        """
        cut = [replace(figure, text=shortened(figure.text, MOST_SHOWN)) for figure in self.figures]
        state = replace(self, reason=shortened(self.reason, MOST_SHOWN), figures=())
        figures = _fitting(cut, MOST_CHARACTERS - len(_json(state)))
        return _json(replace(state, figures=figures))

    def __str__(self) -> str:
        how = " by pods" if self.way == "pods" else ""
        weight = f", {self.weight} % have moved" if self.weight and self.phase == "stable" else ""
        held = ", paused" if self.paused else ""
        return f"{self.model} version {self.old} → {self.new}{how}: {self.phase}{weight}{held}" + (
            f" ({self.reason})" if self.reason else ""
        )


def read_state(text: str) -> State:
    """What `State.text` wrote. Raises KeptError when it is anything else."""
    return parsed(text, State)


def _json(part: State | Figure) -> str:
    return json.dumps(asdict(part), separators=(",", ":"))


def _fitting(figures: Sequence[Figure], room: int) -> tuple[Figure, ...]:
    """The figures in at most `room` characters of JSON."""
    kept, sizes = list(figures), [len(_json(figure)) + 1 for figure in figures]
    for lighter in (_without_series, _without_numbers):
        for index, figure in enumerate(kept):
            if sum(sizes) <= room:
                return tuple(kept)
            kept[index] = lighter(figure)
            sizes[index] = len(_json(kept[index])) + 1
    while sum(sizes) > room:
        del kept[0], sizes[0]
    return tuple(kept)


def _without_series(figure: Figure) -> Figure:
    return replace(figure, numbers={key: value for key, value in figure.numbers.items() if key != "series"})


def _without_numbers(figure: Figure) -> Figure:
    return replace(figure, numbers={})
