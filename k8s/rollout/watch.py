"""Counts successes, failures and latency of requests to two versions, second by second.

metrics pages of the servers with each version ──► requests of clients ──┐
golden requests of the probe to these servers ──► requests of the probe ─┼──► a Comparison of each kind
golden requests through the address of clients ──► of the address ───────┘
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from tfserving.clients.metrics import Page
from tfserving.foundation.golden import Golden
from tfserving.k8s.at_once import Pause, each
from tfserving.k8s.rollout import gates
from tfserving.k8s.rollout.probe import Place, Probe
from tfserving.k8s.rollout.sample import Sample
from tfserving.k8s.rollout.target import GateError, Instance, url
from tfserving.serving.models_yaml.rollout import Rollout


@dataclass(frozen=True)
class Side:
    """Servers with `version` of a model; `instances` returns those that run now.

    The probe reaches the version by the label `stable`, or `by_number` where clients of these servers already get
    another version.
    """

    instances: Callable[[], Sequence[Instance]]
    version: int
    by_number: bool = False


@dataclass
class Seen:
    """The results of requests to the servers of one side, from clients and from the probe."""

    clients: Sample = field(default_factory=Sample)
    probe: Sample = field(default_factory=Sample)


class Watch:
    """Watches sides while it is entered. The probe sends the requests `golden` to each side at its rate."""

    def __init__(self, model: str, sides: Sequence[Side], golden: Golden, settings: Rollout) -> None:
        self._model, self._sides = model, sides
        self._address = settings.address
        rate = settings.probe
        self._probes = [
            Probe(
                [
                    Place(url(instance), model, side.version if side.by_number else None, instance.leaves)
                    for instance in side.instances()
                ],
                golden,
                rate,
                number / (rate * len(sides)) if rate else 0.0,
            )
            for number, side in enumerate(sides)
        ]
        self._through = Probe([Place(self._address, model)] if self._address else [], golden, rate)
        self._pages = [dict(_pages(self._seen_by(side), model)) for side in sides]
        # For each side: how many requests its pages have counted, and how many of these are surely from clients.
        self._counted, self._of_clients = [0 for _ in sides], [0 for _ in sides]
        self._failed: list[Counter[str]] = [Counter() for _ in sides]
        self._stack = contextlib.ExitStack()

    @property
    def shares(self) -> bool:
        """Whether sides are on the same servers."""
        return any(side.by_number for side in self._sides)

    def __enter__(self) -> Watch:
        for probe in self._all():
            self._stack.enter_context(probe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def take(self) -> tuple[list[Seen], Sample]:
        """Return the results since the last call: of each side, and of the probe through the address."""
        seen = [Seen(probe=probe.take()) for probe in self._probes]
        for number, one in enumerate(seen):
            one.clients = self._clients(number)
        return seen, self._through.take()

    def finish(self, pause: Callable[[float], None]) -> None:
        """Stop the probe, and wait for its last responses."""
        for probe in self._all():
            probe.finish(pause)

    def _all(self) -> list[Probe]:
        return [*self._probes, self._through]

    def _seen_by(self, side: Side) -> Sequence[Instance]:
        """Return the servers whose pages count the clients of a side: none if clients get the other side's."""
        return () if side.by_number else side.instances()

    def _failed_of_clients(self, number: int, failed: Counter[str]) -> Counter[str]:
        """Return `failed` without the probe's errors, by code. The page doesn't count refused requests."""
        codes: Counter[str] = sum((probe.codes() for probe in self._probes_of(number)), Counter())
        ours = (codes - self._failed[number]) & failed
        self._failed[number] += ours
        return failed - ours

    def _probes_of(self, number: int) -> list[Probe]:
        """Return the probes that send to the servers of a side."""
        return [
            probe
            for probe, side in zip(self._probes, self._sides, strict=True)
            if side is self._sides[number] or side.by_number
        ]

    def _clients(self, number: int) -> Sample:
        """Return what the pages of a side have counted since the last call, without the probe's requests."""
        side, before, total = self._sides[number], self._pages[number], Page()
        for name, page in _pages(self._seen_by(side), self._model):
            total.add(page.since(before.get(name, Page())))
            before[name] = page
        total.failed = self._failed_of_clients(number, total.failed)
        self._counted[number] += total.answered
        # A page may already count a request whose response is on its way.
        probed = self._through.begun(side.version) + sum(probe.begun() for probe in self._probes_of(number))
        clients = min(max(self._counted[number] - probed - self._of_clients[number], 0), total.answered)
        self._of_clients[number] += clients
        return Sample.of_page(total.without(total.answered - clients))


def _pages(instances: Sequence[Instance], model: str) -> list[tuple[str, Page]]:
    """Return the metrics page of each server now, by the server's name. A server that terminates has none."""

    def read(instance: Instance, _: Pause) -> tuple[str, Page] | None:
        try:
            return instance.name, gates.page(instance, model)
        except GateError:
            if not instance.leaves():
                raise
        return None

    return [found for found in each(instances, read) if found]
