"""What the two ways of rolling out have in common: to prove servers, to tell them what to serve, to watch them."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from tfserving.clients import Client, connect
from tfserving.clients.busy import is_busy
from tfserving.clients.errors import ServingError
from tfserving.clients.metrics import Page
from tfserving.foundation.golden import Golden, GoldenError, read_golden
from tfserving.k8s.rollout import gates
from tfserving.k8s.rollout.probe import SECONDS, Place, Probe, Probed
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import GateError, Instance, RolloutError, Serve, Target, url
from tfserving.serving.engines.readiness import states_of
from tfserving.serving.live import label_version
from tfserving.serving.models_yaml.fleet import CANARY, STABLE
from tfserving.serving.models_yaml.rollout import Rollout

# Lets so many seconds pass; raises when somebody wants the rollout taken back.
Pause: TypeAlias = Callable[[float], None]
_POLL_SECONDS = 0.2
PROBE = "probe: "
_PROBE_HELP = "`rollout.address` says where clients send requests, `rollout.probe: 0` turns the probe off"


@dataclass(frozen=True)
class Side:
    """Servers whose label `stable` is at `version`; `instances` returns those that there are now."""

    instances: Callable[[], Sequence[Instance]]
    version: int


@dataclass(frozen=True)
class Seen:
    """What came of requests: of clients, by the servers' metrics pages, and of the probe."""

    page: Page
    probed: Probed

    def add(self, other: Seen) -> None:
        """Counts what came of other requests, too."""
        self.page.add(other.page)
        self.probed.add(other.probed)


@dataclass
class Way(ABC):
    """Does what a phase is for. `folder` has the model's versions; a server may take `wait` seconds for a change."""

    folder: Path
    settings: Rollout
    wait: float
    say: Callable[[str], None]

    def do(self, state: State, pause: Pause) -> State:
        """Does what the phase is for; returns the state after it.

        Raises GateError when the new version may not go on, ServingError when a server can't be asked, and RolloutError
        when nothing more can be done now.
        """
        match state.phase:
            case "loading":
                return self.load(state, pause).next()
            case "proving":
                return self.prove(state).next()
            case "canary":
                return self._commands(self.compare(state, pause)).next()
            case "stable":
                return self.move(state, pause)
            case "baking":
                return self.bake(state, pause).next()
            case "unloading":
                return self.unload(state).next()
        return self.go_back(state).next()

    @abstractmethod
    def load(self, state: State, pause: Pause) -> State:
        """Has the new version loaded beside the old one."""

    @abstractmethod
    def prove(self, state: State) -> State:
        """Has every server with the new version asked its golden requests."""

    @abstractmethod
    def compare(self, state: State, pause: Pause) -> State:
        """Compares the versions before anybody but a canary's users is answered by the new one."""

    @abstractmethod
    def move(self, state: State, pause: Pause) -> State:
        """Moves requests to the new version; returns the state of the next phase, or of the next part of this one."""

    @abstractmethod
    def bake(self, state: State, pause: Pause) -> State:
        """Watches the new version for a while."""

    @abstractmethod
    def unload(self, state: State) -> State:
        """Lets the old version go."""

    @abstractmethod
    def go_back(self, state: State) -> State:
        """Has all as it was before. Raises RolloutError when that can't be."""

    @abstractmethod
    def sentence(self, state: State) -> str:
        """What the phase is about to do."""

    @abstractmethod
    def check(self, state: State) -> None:
        """Raises RolloutError when a rollout that is so far can't go on here."""

    @abstractmethod
    def close(self) -> None:
        """Gives up what it needed to reach the servers."""

    def _commands(self, state: State) -> State:
        for words in self.settings.commands:
            state = self._saw(state, gates.command(words, state, self.settings))
        return state

    def _proven(self, state: State, instances: Sequence[Instance]) -> State:
        for instance in instances:
            state = self._saw(state, gates.golden(instance, self._version(state.new)))
        return state

    def _baked(self, state: State, target: Target, pause: Pause) -> State:
        """After a while of requests to the new version too many failed, or a server answers otherwise: GateError."""
        side = Side(target.instances, state.new)
        (seen,) = self._watched(state, [side], pause, lambda _: pause(self.settings.bake))
        state = self._proven(state, target.instances())
        state = self._saw(state, gates.allowed(seen.page, self.settings, "while it baked: "))
        return self._saw(state, gates.allowed(seen.probed, self.settings, PROBE)) if seen.probed.total else state

    def _windows(self, state: State, sides: list[Side], pause: Pause) -> list[Seen]:
        """What comes of requests to each of `sides` in the same window, in which the first gets enough of clients."""
        return self._watched(state, sides, pause, lambda count: gates.window(count, self.settings, pause, self.say))

    def _compared(self, state: State, new: Seen, old: Seen, when: str = "") -> State:
        """Compares what came of requests. Raises GateError when the new version is worse."""
        state = self._saw(state, when + gates.compare(new.page, old.page, self.settings))
        if new.probed.total:
            state = self._saw(state, when + gates.compare(new.probed, old.probed, self.settings, PROBE))
        return state

    def _watched(
        self, state: State, sides: list[Side], pause: Pause, wait: Callable[[Callable[[], int]], None]
    ) -> list[Seen]:
        """What comes of requests to each of `sides` until `wait` returns.

        `wait` gets a function that counts the requests of clients to the first side. The requests of the probe aren't
        among them. An address leads to all sides: what came of the probe through it is the first one's.
        """
        before = [dict(_pages(side.instances(), state.model)) for side in sides]
        probes = self._probes(state, sides)

        def counted(index: int) -> Page:
            total = Page()
            for name, page in _pages(sides[index].instances(), state.model):
                total.add(page.since(before[index].get(name, Page())))
            # Each side has a probe of its own, or they share one.
            shared = self.settings.address and len(sides) > 1
            return total.without(probes[index].answered_by(sides[index].version if shared else None))

        with contextlib.ExitStack() as stack:
            for probe in dict.fromkeys(probes):
                stack.enter_context(probe)
            try:
                wait(lambda: counted(0).total)
            except GateError as error:
                so_far = probes[0].so_far()
                raise GateError(f"{error}; {PROBE}{so_far}" if so_far.total else str(error)) from None
            probed = {probe: probe.finish(pause) for probe in dict.fromkeys(probes)}
            seen = [Seen(counted(index), probed.pop(probe, Probed())) for index, probe in enumerate(probes)]
        for side, one in zip(sides, seen, strict=True):
            if side.version == state.old and one.probed.total and not one.probed.seconds:
                raise GateError(f"{PROBE}{one.probed}: version {state.old} can't be reached; {_PROBE_HELP}")
        return seen

    def _check_address(self, state: State) -> None:
        """Raises RolloutError before a rollout begins whose probe has a wrong address."""
        address = self.settings.address
        if address is None or not self.settings.probe or state.phase != "loading":
            return
        with connect(address, timeout=SECONDS) as client:
            try:
                client.metadata(state.model, label=STABLE)
            except ServingError as error:
                # A server that is busy is there.
                if is_busy(error):
                    return
                raise RolloutError(f"rollout.address {address}: {error.code}: {error.text}; {_PROBE_HELP}") from None

    def _probes(self, state: State, sides: list[Side]) -> list[Probe]:
        """The probe of each side: to its servers, or, the same for all, through the address that clients use.

        What clients send while versions share an address are the golden requests of the old one.
        """
        rate, address = self.settings.probe, self.settings.address
        if address:
            version = state.old if any(side.version == state.old for side in sides) else state.new
            return [Probe(state.model, [Place(address)], self._golden(version), rate)] * len(sides)
        return [
            Probe(
                state.model,
                [Place(url(instance), instance.leaves) for instance in side.instances()],
                self._golden(side.version),
                rate,
            )
            for side in sides
        ]

    def _golden(self, version: int) -> Golden:
        try:
            return read_golden(self._version(version))
        except GoldenError as error:
            raise GateError(str(error)) from None

    def _everywhere(self, target: Target, serve: Serve, pause: Pause) -> None:
        """Has every server serve this, those too that start meanwhile."""
        target.keep(serve)
        told: set[str] = set()
        while new := [instance for instance in target.instances() if instance.name not in told]:
            for instance in new:
                self._one(instance, serve, pause)
                told.add(instance.name)

    def _one(self, instance: Instance, serve: Serve, pause: Pause) -> None:
        """Has one server serve this, and waits until it does. A server that is busy is sent it again.

        Raises GateError when the version fails to load or time runs out.
        """
        deadline = time.monotonic() + self.wait
        told = busy = False
        with connect(url(instance), timeout=5) as client:
            while True:
                try:
                    if (missing := _missing(client, serve)) is None:
                        return
                    if not told:
                        instance.tell(serve)
                        told = True
                except ServingError as error:
                    missing = str(error)
                    if not is_busy(error):
                        if not told:
                            raise
                    elif not busy:
                        busy = True
                        self.say(f"  {instance.name} is busy, trying again: {error.code}: {error.text}")
                if time.monotonic() > deadline:
                    raise GateError(f"{instance.name}: {missing} after {self.wait:g} s")
                pause(_POLL_SECONDS)

    def _saw(self, state: State, figure: str) -> State:
        self.say(f"  {figure}")
        return replace(state, figures=(*state.figures, figure))

    def _version(self, number: int) -> Path:
        return self.folder / str(number)


def _pages(instances: Sequence[Instance], model: str) -> Iterator[tuple[str, Page]]:
    """What each server's metrics page says now, by the server's name. One that is taken away has none."""
    for instance in instances:
        try:
            yield instance.name, gates.page(instance, model)
        except GateError:
            if not instance.leaves():
                raise


def final(state: State) -> Serve:
    """What is served when the rollout is done."""
    labels = {label: version for label, version in state.labels.items() if label != CANARY}
    labels = {label: state.new if version == state.old else version for label, version in labels.items()}
    versions = {*state.versions, state.new} - {state.old}
    return Serve(state.model, tuple(sorted(versions)), labels)


def _missing(client: Client, serve: Serve) -> str | None:
    """What a server doesn't serve yet of that; None when it does. Raises GateError for a version that failed."""
    states = states_of(client, serve.model)
    for version in serve.versions:
        status = states.get(version)
        if status is not None and status.failed:
            raise GateError(f"model {serve.model!r}: {status}")
        if status is None or status.state != "AVAILABLE":
            return f"model {serve.model!r}: {status or f'version {version} is not known'}"
    for label, version in serve.labels.items():
        if (found := label_version(client, serve.model, label)) != version:
            return f"model {serve.model!r}: label {label!r} is at {found or 'no version'}, not at {version}"
    for version, status in states.items():
        if version not in serve.versions and status.state != "END":
            return f"model {serve.model!r}: {status}, which is to be unloaded"
    return None
