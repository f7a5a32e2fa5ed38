"""The one that rolls out: goes from phase to phase, keeps the state, and turns back when a gate fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from clients import Client, connect
from clients.errors import ServingError
from k8s.rollout import gates
from k8s.rollout.state import CANARY, STABLE, Request, State
from k8s.rollout.target import GateError, Instance, RolloutError, Serve, Store, Target
from serving.engines.readiness import states_of
from serving.live import label_version
from serving.rollout_settings import Rollout

_POLL_SECONDS = 0.2


class _AbortedError(Exception):
    """Somebody asked to go back."""


@dataclass
class Controller:
    """Rolls a model out over `target`. `folder` has its versions; `wait` is how long a server may take for a change."""

    target: Target
    store: Store
    folder: Path
    settings: Rollout
    wait: float
    say: Callable[[str], None]
    _pending: Request | None = None

    def run(self, state: State) -> State:
        """Goes on from `state` until the rollout is over, which the caller has the lease for; returns how it ended.

        Raises RolloutError when there is nobody to tell, or going back fails; the state stays for another try.
        """
        self.store.save(state)
        while not state.over:
            try:
                state = self._hold(state)
                self.say(self._sentence(state))
                done = self._do(state)
            except _AbortedError:
                done = self._turn(state, "aborted")
            except (GateError, ServingError) as error:
                done = self._turn(state, f"{state.phase}: {error}")
            state = done
            self.store.save(state)
        self.say(self._sentence(state))
        return state

    def _turn(self, state: State, reason: str) -> State:
        """Turns back; where there is no way back any more, the failure is the caller's to deal with."""
        if not state.returnable:
            raise RolloutError(f"{reason}; it is left where it is")
        self.say(f"Rolling back: {reason}")
        return state.back(reason)

    def _hold(self, state: State) -> State:
        """Waits while the rollout is paused, or until it is promoted when that is by hand."""
        gate = state.manual and state.phase == "stable"
        told = False
        while True:
            match self._request():
                case "abort" if state.returnable:
                    raise _AbortedError
                case "pause" if state.returnable:
                    state = replace(state, paused=True)
                    self.store.save(state)
                case "promote":
                    state, gate = replace(state, paused=False, manual=state.manual and not gate), False
                    self.store.save(state)
            if not (state.paused or gate):
                return state
            if not told:
                told = True
                self.say(f"Before {state.phase}: `rollout promote {state.model}` goes on, `abort` goes back.")
            time.sleep(_POLL_SECONDS)

    def _do(self, state: State) -> State:
        """Does what the phase is for; returns the state after it."""
        if state.phase == "loading":
            self._everywhere(state, self._loaded(state, state.labels))
            return state.next()
        if state.phase == "proving":
            return self._proving(state).next()
        if state.phase == "canary":
            return self._canary(state).next()
        if state.phase == "stable":
            return self._stable(state).next()
        if state.phase == "baking":
            return self._baking(state).next()
        if state.phase == "unloading":
            final = _final(state)
            self._everywhere(state, final)
            self.target.finish(final)
            return state.next()
        return self._back(state)

    def _proving(self, state: State) -> State:
        for instance in self.target.instances():
            state = self._saw(state, gates.golden(instance, self._version(state.new)))
        return state

    def _canary(self, state: State) -> State:
        self._everywhere(state, self._loaded(state, {**state.labels, CANARY: state.new}))
        for instance in self.target.instances():
            said = gates.latency(
                instance, state.model, self._version(state.old), self._version(state.new), self.settings
            )
            state = self._saw(state, said)
        for words in self.settings.commands:
            state = self._saw(state, gates.command(words, state))
        return state

    def _stable(self, state: State) -> State:
        """Moves the first server, compares it with the others and with all of them before, then moves the others."""
        moved = self._moved(state)
        first, *others = self.target.instances()
        (old,) = self._windows(state, [[first, *others]])
        self._one(first, moved, state)
        new, same_time = self._windows(state, [[first], others])
        old.add(same_time)
        state = self._saw(state, gates.compare(new, old, self.settings))
        for instance in others:
            self._one(instance, moved, state)
        self._everywhere(state, moved)
        return state

    def _baking(self, state: State) -> State:
        """The old version stays for a while; then every server must still answer as it was proven to."""
        before = {instance.name: gates.page(instance, state.model) for instance in self.target.instances()}
        self._pass(self.settings.bake)
        self._everywhere(state, self._moved(state))
        total = gates.Page()
        for instance in self.target.instances():
            total.add(gates.page(instance, state.model).since(before.get(instance.name, gates.Page())))
            state = self._saw(state, gates.golden(instance, self._version(state.new)))
        said = f"while it baked: {total}"
        if total.error_rate > self.settings.error_rate:
            raise GateError(f"{said}: {100 * self.settings.error_rate:g} % are allowed")
        return self._saw(state, said)

    def _back(self, state: State) -> State:
        """Back to what was served before. A server that is gone has nothing to be told."""
        try:
            self._everywhere(state, Serve(state.model, state.versions, state.labels))
        except (GateError, ServingError) as error:
            raise RolloutError(f"it can't go back: {error}") from None
        return state.next()

    def _loaded(self, state: State, labels: dict[str, int]) -> Serve:
        return Serve(state.model, tuple(sorted({*state.versions, state.old, state.new})), labels)

    def _moved(self, state: State) -> Serve:
        return self._loaded(state, {**state.labels, CANARY: state.new, STABLE: state.new})

    def _everywhere(self, state: State, serve: Serve) -> None:
        """Has every server serve this, those too that start meanwhile."""
        self.target.keep(serve)
        told: set[str] = set()
        while new := [instance for instance in self.target.instances() if instance.name not in told]:
            for instance in new:
                self._one(instance, serve, state)
                told.add(instance.name)

    def _one(self, instance: Instance, serve: Serve, state: State) -> None:
        """Has one server serve this, and waits until it does.

        Raises GateError when the version fails to load or time runs out.
        """
        deadline = time.monotonic() + self.wait
        with connect(f"http://{instance.rest}", timeout=5) as client:
            if (missing := _missing(client, serve)) is None:
                return
            instance.tell(serve)
            while missing is not None:
                if state.returnable:
                    self._pass(_POLL_SECONDS)
                else:
                    time.sleep(_POLL_SECONDS)
                try:
                    missing = _missing(client, serve)
                except ServingError as error:
                    missing = str(error)
                if missing and time.monotonic() > deadline:
                    raise GateError(f"{instance.name}: {missing} after {self.wait:g} s")

    def _windows(self, state: State, groups: list[list[Instance]]) -> list[gates.Page]:
        """What each group of servers counts in the same window."""

        def pages(group: list[Instance]) -> gates.Page:
            total = gates.Page()
            for instance in group:
                total.add(gates.page(instance, state.model))
            return total

        before = [pages(group) for group in groups[1:]]
        first = gates.window(lambda: pages(groups[0]), self.settings, self._pass, self.say)
        return [first, *(pages(group).since(was) for group, was in zip(groups[1:], before, strict=True))]

    def _request(self) -> Request | None:
        """What was asked for, now or during the last phase."""
        request, self._pending = self.store.asked() or self._pending, None
        return request

    def _pass(self, seconds: float) -> None:
        """Lets time pass in a phase that can be left. Raises _AbortedError when that is asked for."""
        until = time.monotonic() + seconds
        while True:
            request = self.store.asked()
            if request == "abort":
                raise _AbortedError
            # Any other is for the end of this phase.
            self._pending = request or self._pending
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(_POLL_SECONDS, left))

    def _saw(self, state: State, figure: str) -> State:
        self.say(f"  {figure}")
        return state.saw(figure)

    def _version(self, number: int) -> Path:
        return self.folder / str(number)

    def _sentence(self, state: State) -> str:
        model, old, new = state.model, state.old, state.new
        return {
            "loading": f"Loading {model} version {new} beside version {old} …",
            "proving": f"Asking the golden requests of {model} version {new} …",
            "canary": f"Label canary → version {new}, and its latency …",
            "stable": f"Label stable → version {new}, server by server …",
            "baking": f"Baking for {self.settings.bake:g} s …",
            "unloading": f"Unloading version {old} …",
            "done": f"{model} version {new} is stable.",
            "rolling-back": f"Back to {model} version {old} …",
            "rolled-back": f"{model} version {old} serves as before: {state.reason}",
        }[state.phase]


def _final(state: State) -> Serve:
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
