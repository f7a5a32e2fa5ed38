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
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias

from tfserving.serving.kept import parsed

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


@dataclass(frozen=True)
class State:
    """A rollout of `model` from version `old` to `new`, as it is kept.

    `labels` are those that models.yaml had before it, `versions` what servers had under the model's own name, and
    `after` what they have there when it is done. `reason` says why it went back, `figures` what its gates saw.
    By pods, `weight` is how many percent of the requests the new ones have got and passed with.
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
    reason: str = ""
    figures: tuple[Figure, ...] = ()
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

    def back(self, reason: str) -> State:
        """The state after this phase has failed."""
        return replace(self, phase="rolling-back", reason=reason, paused=False)

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=2)

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
