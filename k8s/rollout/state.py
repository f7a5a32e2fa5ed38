"""Where a rollout is: one state machine, whatever it moves and wherever the servers are.

    start ──► LOADING ──► PROVING ──► CANARY ──► STABLE ──► BAKING ──► UNLOADING ──► DONE
                 │            │          │          │          │
                 └────────────┴──────────┴──────────┴──────────┴──► ROLLING_BACK ──► ROLLED_BACK
                     a gate fails, a version doesn't load, or `abort`

LOADING    every server loads the new version beside the old one
PROVING    every server is asked its golden requests
CANARY     the label `canary` means the new version everywhere; its latency is compared with the old one's.
           A manual rollout waits here for `promote`
STABLE     the label `stable` moves, server by server; after the first one their metrics are compared
BAKING     all requests have gone to the new version for a while; the metrics are compared once more
UNLOADING  the old version goes

`pause` holds a rollout before its next phase until `promote`. From UNLOADING on there is no way back but `undo`. Every
phase can be done again: whoever continues after a crash begins with the one that is noted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias

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
# What another shell may ask of the one that rolls out.
Request: TypeAlias = Literal["pause", "promote", "abort"]
CANARY, STABLE = "canary", "stable"


@dataclass(frozen=True)
class State:
    """A rollout of `model` from version `old` to `new`, as it is kept.

    `labels` and `versions` are what was served before it. `reason` says why it went back, `figures` what its gates saw.
    """

    model: str
    old: int
    new: int
    labels: dict[str, int]
    versions: tuple[int, ...]
    phase: Phase = "loading"
    paused: bool = False
    manual: bool = False
    reason: str = ""
    figures: tuple[str, ...] = ()
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

    def saw(self, figure: str) -> State:
        """The state with one more line of what a gate saw."""
        return replace(self, figures=(*self.figures, figure))

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        held = ", paused" if self.paused else ""
        return f"{self.model} version {self.old} → {self.new}: {self.phase}{held}" + (
            f" ({self.reason})" if self.reason else ""
        )


def read_state(text: str) -> State:
    """What `State.text` wrote."""
    said: dict[str, Any] = json.loads(text)
    return State(**{**said, "versions": tuple(said["versions"]), "figures": tuple(said["figures"])})
