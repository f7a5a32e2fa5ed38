"""The common part of both strategies, in place and by pods: the phases, and changes of a server's configuration."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tfserving.clients import Client, connect
from tfserving.clients.busy import is_busy
from tfserving.clients.errors import ServingError
from tfserving.k8s.at_once import MOST_AT_ONCE, Pause, each
from tfserving.k8s.rollout import gates, serves
from tfserving.k8s.rollout.comparing import PROBE_HELP, Comparing
from tfserving.k8s.rollout.probe import SECONDS
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import GateError, Instance, RolloutError, Serve, Target, url
from tfserving.serving.config import POLL_SECONDS_WITH_TLS
from tfserving.serving.engines import EngineError
from tfserving.serving.engines.readiness import BELIEVED_SECONDS, Earlier, missing
from tfserving.serving.models_yaml.fleet import STABLE
from tfserving.serving.served import Served
from tfserving.serving.steps import steps

Result = TypeVar("Result")
_POLL_SECONDS = 0.2
# A server that polls its configuration, with TLS, reads it within this time.
_BELIEVED_SECONDS = BELIEVED_SECONDS + POLL_SECONDS_WITH_TLS


@dataclass
class Strategy(Comparing, ABC):
    """Runs the phases of a rollout."""

    def do(self, state: State, pause: Pause) -> State:
        """Run the phase; return the state after it. `seen` returns the measurements, also after a failure.

        Raises GateError when the new version must be rolled back, ServingError when a call to a server fails, and
        RolloutError when the rollout can't continue now.
        """
        self._figures.clear()
        try:
            done = self._do(state, pause)
        except GateError as error:
            if error.figure:
                self._saw(error.figure)
            raise
        return self.seen(done, state)

    def seen(self, state: State, during: State) -> State:
        """Return `state` with the measurements of the last phase, which began as `during`."""
        found = (replace(figure, phase=during.phase) for figure in self._figures)
        return replace(state, figures=(*during.figures, *found))

    def _do(self, state: State, pause: Pause) -> State:
        match state.phase:
            case "loading":
                self.load(state, pause)
            case "proving":
                self.prove(state, pause)
            case "canary":
                self.compare(state, pause)
                for words in self.settings.commands:
                    self.log(f"  running {' '.join(words)}")
                    self._saw(gates.command(words, state, self.settings))
            case "stable":
                return self.move(state, pause)
            case "baking":
                self.bake(state, pause)
            case "unloading":
                self.unload(state)
            case _:
                self.go_back(state)
        return state.next()

    @abstractmethod
    def load(self, state: State, pause: Pause) -> None:
        """Load the new version where clients get it only by its canary name."""

    @abstractmethod
    def prove(self, state: State, pause: Pause) -> None:
        """Send the golden requests to every server with the new version, and compare the outputs."""

    @abstractmethod
    def compare(self, state: State, pause: Pause) -> None:
        """Compare the versions before clients of the model get the new one."""

    @abstractmethod
    def move(self, state: State, pause: Pause) -> State:
        """Move requests to the new version; return the state of the next phase, or of the next step of this one."""

    @abstractmethod
    def bake(self, state: State, pause: Pause) -> None:
        """Watch the new version for `bake` seconds."""

    @abstractmethod
    def unload(self, state: State) -> None:
        """Unload the old version."""

    @abstractmethod
    def go_back(self, state: State) -> None:
        """Restore the state before the rollout. Raises RolloutError when that fails."""

    @abstractmethod
    def sentence(self, state: State) -> str:
        """Return what the phase is about to do, as a line of progress."""

    @abstractmethod
    def check(self, state: State) -> None:
        """Raise RolloutError when a rollout in this state can't run here."""

    @abstractmethod
    def close(self) -> None:
        """Release the connections to the servers."""

    def _comparing(self, state: State) -> str:
        """Return the line of progress of the phase `canary`."""
        if not self.settings.longest:
            return f"Preparing version {state.new} …"
        return f"Comparing version {state.new} with version {state.old} before clients of {state.model} get it …"

    def _baking(self, state: State) -> str:
        """Return the line of progress of the phase `baking`; without a bake, only golden requests are sent."""
        if not self.settings.bake:
            return f"Sending golden requests to version {state.new} …"
        return f"Baking version {state.new} for {self.settings.bake:g} s …"

    def _check_address(self, state: State) -> None:
        """Raise RolloutError before a rollout starts if `rollout.address` doesn't serve the model."""
        address = self.settings.address
        if address is None or not self.settings.probe or state.phase != "loading":
            return
        with connect(address, timeout=SECONDS) as client:
            try:
                client.metadata(state.model, label=STABLE)
            except ServingError as error:
                # A busy server is fine.
                if is_busy(error):
                    return
                raise RolloutError(f"rollout.address {address}: {error.code}: {error.text}. {PROBE_HELP}") from None

    def _everywhere(self, target: Target, serve: Serve, pause: Pause, *, keep: bool = True) -> None:
        """Configure every server, including those that start meanwhile; with `keep`, also for restarts.

        At most a quarter of the servers load at the same time, since they are slower then.
        """
        if keep:
            target.keep(serve)

        def configure(instance: Instance, pause: Pause) -> None:
            self._one(instance, serve, pause, keep=keep)

        done: set[str] = set()
        while new := [instance for instance in target.instances() if instance.name not in done]:
            each(new, configure, pause, most=min(MOST_AT_ONCE, max(1, len(new) // 4)))
            done.update(instance.name for instance in new)

    def _one(self, instance: Instance, serve: Serve, pause: Pause, *, keep: bool = True) -> None:
        """Configure one server, step by step, and wait until it serves this.

        Raises GateError when a version fails to load or the time is up.
        """
        deadline = time.monotonic() + self.wait
        with connect(url(instance), timeout=5) as client:
            before = self._patiently(instance, lambda: serves.now(client, serve), deadline, pause)
            # The last step is sent even if it changes nothing: a restart must begin with it.
            for step in steps(before, serve.served):
                self._step(instance, client, Serve(serve.model, step.served), before, deadline, pause, keep=keep)
                before = step.served

    def _step(
        self,
        instance: Instance,
        client: Client,
        serve: Serve,
        before: Sequence[Served],
        deadline: float,
        pause: Pause,
        *,
        keep: bool,
    ) -> None:
        names = [one.name for one in serve.served]
        earlier = self._patiently(instance, lambda: Earlier(client, names, _BELIEVED_SECONDS), deadline, pause)
        self._patiently(instance, lambda: instance.configure(serve, keep=keep), deadline, pause)
        try:
            while waits := self._patiently(
                instance, lambda: missing(client, serve.served, earlier, before), deadline, pause
            ):
                if time.monotonic() > deadline:
                    raise GateError(f"{instance.name}: {waits} after {self.wait:g} s. --wait sets the time limit.")
                pause(_POLL_SECONDS)
        except EngineError as error:
            raise GateError(str(error)) from None

    def _patiently(self, instance: Instance, call: Callable[[], Result], deadline: float, pause: Pause) -> Result:
        """Return what `call` returns; retry while the server is busy. Raises ServingError."""
        reported = False
        while True:
            try:
                return call()
            except ServingError as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
                if not reported:
                    reported = True
                    self.log(f"  {instance.name} is busy, retrying: {error.code}: {error.text}")
            pause(_POLL_SECONDS)
