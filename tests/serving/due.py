"""A load of all kinds of clients, while what a server serves is changed by hand; see `tests.k8s.load`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from tests.k8s.load import NOWHERE, Kind, Load, Outcome
from tests.servers import wait_for


@dataclass(frozen=True)
class Served:
    """What clients without a label or with `stable` get, which versions they get by number, and what the canary is."""

    stable: int
    versions: frozenset[int]
    canary: int | None = None

    def due(self, kind: Kind) -> Outcome:
        """What this kind of client gets."""
        if kind.canary:
            return self.canary or NOWHERE
        if kind.version:
            return kind.version if kind.version in self.versions else NOWHERE
        return self.stable


@dataclass
class ChangedLoad(Load):
    """It begins with `served`."""

    served: Served = Served(1, frozenset({1}))

    def __enter__(self) -> ChangedLoad:
        super().__enter__()
        return self

    @contextlib.contextmanager
    def becomes(self, stable: int, *versions: int, canary: int | None = None) -> Iterator[None]:
        """Has a change within: what was due before is due until its end, and what is due then from its beginning."""
        before, self.served = self.served, Served(stable, frozenset({stable, *versions}), canary)
        self._now(before, self.served)
        yield
        self._now(self.served)
        self.serves(20)

    def serves(self, count: int) -> None:
        """Waits for so many answers more."""
        wanted = self.answered + count
        wait_for(lambda: self.answered >= wanted or self.failures, what=f"{count} answers")
        assert not self.failures

    def _widen(self) -> None:
        self._now(self.served)

    def _now(self, *served: Served) -> None:
        for kind, due in self._due.items():
            due.becomes(frozenset(one.due(kind) for one in served), str(self.served))
