"""The state machine of a rollout. It is the same in place and by pods, on this machine and on a cluster.

    start ──► LOADING ──► PROVING ──► CANARY ──► STABLE ──► BAKING ──► UNLOADING ──► DONE
                 │            │          │        ▲ │          │
                 │            │          │        └─┤ by pods, once for each weight
                 └────────────┴──────────┴──────────┴──────────┴──► ROLLING_BACK ──► ROLLED_BACK
                     a gate fails, a version doesn't load, or `abort`

           in place                                          by pods
LOADING    every server loads the new version, under the     a second Deployment starts pods with the new
           name of the model's canary                        version; they get no requests from clients
PROVING    golden requests are sent to every server          ... to every new pod
CANARY     quality, latency and drift are compared with those of the old version
STABLE     every server loads it under the model's own       the routes send 5, 25, 50, 100 % of the requests to
           name, and `stable` moves; failures and latency    the new pods; failures and latency are compared at
           are compared after the first server               each step
BAKING     all requests go to the new version, and failures are watched
UNLOADING  the old version is unloaded                       the first Deployment gets pods with the new version
                                                             and all requests; the second one is deleted

In STABLE and BAKING a probe also sends golden requests as clients do (`probe`). Its results are compared in the same
way as those of the metrics pages.

A manual rollout waits before STABLE for `promote`; `pause` holds one before its next phase. From UNLOADING on, only
`undo` goes back. Every phase can be repeated: after a crash, the rollout resumes with the stored phase.
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

# The maximum length of a stored state. A ConfigMap can hold 1 MiB:
# https://kubernetes.io/docs/concepts/configuration/configmap/.
MOST_CHARACTERS = 512 << 10
# A rollout that is interrupted and resumed again and again has more steps than phases.
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
# In place: every server loads the new version. By pods: a second Deployment has it.
StrategyName: TypeAlias = Literal["in-place", "pods"]
# What another process may request of the one that runs the rollout.
Request: TypeAlias = Literal["pause", "promote", "abort"]
# A gate: a check that the new version must pass.
Gate: TypeAlias = Literal[
    "metric", "golden", "latency", "evaluation", "drift", "shadow", "command", "clients", "probe", "address"
]


@dataclass(frozen=True)
class Figure:
    """A measurement of a gate: a sentence, and the same as numbers.

    `where` is the server or the pods, `at` the time (ISO 8601). For a comparison of requests to two versions, `numbers`
    has the form of `tfserving.k8s.rollout.judge.Comparison.numbers`.
    """

    # Reject states with other keys.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - as pydantic has it
    gate: Gate
    text: str
    passed: bool = True
    where: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    phase: Phase = "loading"
    at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def __str__(self) -> str:
        """The sentence, with the server before it."""
        return self.text if not self.where or self.text.startswith(self.where) else f"{self.where}: {self.text}"


@dataclass(frozen=True)
class Step:
    """A phase that began at the time `at` (ISO 8601). By pods, `weight` percent of the requests had moved before."""

    # Reject states with other keys.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - as pydantic has it
    phase: Phase
    weight: int
    at: str


@dataclass(frozen=True)
class State:
    """The stored state of a rollout of `model` from version `old` to `new`.

    `labels` are those of models.yaml before the rollout. `versions` and `after` are the versions under the model's own
    name before and after it. `reason` is why it was rolled back, `figures` are the measurements of its gates, `steps`
    the phases with their times. `until` is when it will be done if no gate fails (ISO 8601; '' when unknown). By pods,
    `weight` is the percentage of requests with which the new pods have passed. `accept_quality` accepts a version of
    lower quality.
    """

    # Reject states with other keys.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - as pydantic has it
    model: str
    old: int
    new: int
    labels: dict[str, int]
    versions: tuple[int, ...]
    after: tuple[int, ...]
    strategy: StrategyName = "in-place"
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
        """Whether the rollout has ended."""
        return self.phase in ("done", "rolled-back")

    @property
    def returnable(self) -> bool:
        """Whether it can still be aborted."""
        return self.phase in ("loading", "proving", "canary", "stable", "baking")

    def next(self) -> State:
        """Return the state with the next phase."""
        return replace(self, phase=NEXT[self.phase])

    def begun(self, seconds: float | None) -> State:
        """Return the state with its phase begun now. `seconds` are left until the end; None when unknown."""
        now = datetime.now(timezone.utc)
        step = Step(self.phase, self.weight, now.isoformat(timespec="seconds"))
        until = "" if seconds is None else (now + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        return replace(self, steps=(*self.steps, step)[-_MOST_STEPS:], until=until)

    def back(self, reason: str) -> State:
        """Return the state after this phase has failed."""
        return replace(self, phase="rolling-back", reason=reason, paused=False)

    def text(self) -> str:
        """Return JSON in ASCII of at most MOST_CHARACTERS.

        When the figures don't fit, their `series` are dropped, oldest first; then all numbers; then whole figures.
        """
        cut = [replace(figure, text=shortened(figure.text, MOST_SHOWN)) for figure in self.figures]
        state = replace(self, reason=shortened(self.reason, MOST_SHOWN), figures=())
        figures = _fitting(cut, MOST_CHARACTERS - len(_json(state)))
        return _json(replace(state, figures=figures))

    def __str__(self) -> str:
        how = " by pods" if self.strategy == "pods" else ""
        weight = f", {self.weight} % of the requests moved" if self.weight and self.phase == "stable" else ""
        held = ", paused" if self.paused else ""
        return f"{self.model} version {self.old} → {self.new}{how}: {self.phase}{weight}{held}" + (
            f" ({self.reason})" if self.reason else ""
        )


def read_state(text: str) -> State:
    """Parse the text of `State.text`. Raises KeptError for any other text."""
    return parsed(text, State)


def _json(part: State | Figure) -> str:
    return json.dumps(asdict(part), separators=(",", ":"))


def _fitting(figures: Sequence[Figure], room: int) -> tuple[Figure, ...]:
    """Return the figures in at most `room` characters of JSON."""
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
