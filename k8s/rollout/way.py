"""What the two ways of rolling out have in common: to prove servers, to tell them what to serve, to watch them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from tfserving.clients import Client, connect
from tfserving.clients.errors import ServingError
from tfserving.k8s.rollout import gates
from tfserving.k8s.rollout.state import CANARY, State
from tfserving.k8s.rollout.target import GateError, Instance, Serve, Target
from tfserving.serving.engines.readiness import states_of
from tfserving.serving.live import label_version
from tfserving.serving.models_yaml.rollout import Rollout

# Lets so many seconds pass; raises when somebody wants the rollout taken back.
Pause: TypeAlias = Callable[[float], None]
_POLL_SECONDS = 0.2


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
        before = {instance.name: gates.page(instance, state.model) for instance in target.instances()}
        pause(self.settings.bake)
        total = gates.Page()
        for instance in target.instances():
            total.add(gates.page(instance, state.model).since(before.get(instance.name, gates.Page())))
        state = self._proven(state, target.instances())
        said = f"while it baked: {total}"
        if total.error_rate > self.settings.error_rate:
            raise GateError(f"{said}: {100 * self.settings.error_rate:g} % are allowed")
        return self._saw(state, said)

    def _windows(self, state: State, groups: list[list[Instance]], pause: Pause) -> list[gates.Page]:
        """What each group of servers counts in the same window, in which the first gets enough requests."""

        def pages(group: list[Instance]) -> gates.Page:
            total = gates.Page()
            for instance in group:
                total.add(gates.page(instance, state.model))
            return total

        before = [pages(group) for group in groups[1:]]
        first = gates.window(lambda: pages(groups[0]), self.settings, pause, self.say)
        return [first, *(pages(group).since(was) for group, was in zip(groups[1:], before, strict=True))]

    def _everywhere(self, target: Target, serve: Serve, pause: Pause) -> None:
        """Has every server serve this, those too that start meanwhile."""
        target.keep(serve)
        told: set[str] = set()
        while new := [instance for instance in target.instances() if instance.name not in told]:
            for instance in new:
                self._one(instance, serve, pause)
                told.add(instance.name)

    def _one(self, instance: Instance, serve: Serve, pause: Pause) -> None:
        """Has one server serve this, and waits until it does.

        Raises GateError when the version fails to load or time runs out.
        """
        deadline = time.monotonic() + self.wait
        with connect(f"http://{instance.rest}", timeout=5) as client:
            if (missing := _missing(client, serve)) is None:
                return
            instance.tell(serve)
            while missing is not None:
                pause(_POLL_SECONDS)
                try:
                    missing = _missing(client, serve)
                except ServingError as error:
                    missing = str(error)
                if missing and time.monotonic() > deadline:
                    raise GateError(f"{instance.name}: {missing} after {self.wait:g} s")

    def _saw(self, state: State, figure: str) -> State:
        self.say(f"  {figure}")
        return replace(state, figures=(*state.figures, figure))

    def _version(self, number: int) -> Path:
        return self.folder / str(number)


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
