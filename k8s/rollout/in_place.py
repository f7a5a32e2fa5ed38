"""A rollout in place: each server that there is loads the new version beside the old one, and labels move."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tfserving.clients.errors import ServingError
from tfserving.k8s.rollout import gates
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import GateError, RolloutError, Serve, Target
from tfserving.k8s.rollout.way import Pause, Side, Way, final
from tfserving.serving.models_yaml.fleet import CANARY, STABLE


@dataclass
class InPlace(Way):
    """Over the servers of `target`."""

    target: Target

    def load(self, state: State, pause: Pause) -> State:
        """See Way."""
        self._everywhere(self.target, _beside(state, state.labels), pause)
        return state

    def prove(self, state: State) -> State:
        """See Way."""
        return self._proven(state, self.target.instances())

    def compare(self, state: State, pause: Pause) -> State:
        """Label `canary` moves; on every server golden requests of both versions are timed in turns."""
        self._everywhere(self.target, _beside(state, {**state.labels, CANARY: state.new}), pause)
        for instance in self.target.instances():
            old, new = ((instance, self._version(number)) for number in (state.old, state.new))
            state = self._saw(state, gates.latency(state.model, old, new, self.settings))
        return state

    def move(self, state: State, pause: Pause) -> State:
        """Moves the first server, compares it with the others and with all of them before, then moves the others."""
        first, *others = self.target.instances()
        (old,) = self._windows(state, [Side(lambda: [first, *others], state.old)], pause)
        self._one(first, _moved(state), pause)
        sides = [Side(lambda: [first], state.new), Side(lambda: others, state.old)]
        new, same_time = self._windows(state, sides, pause)
        old.add(same_time)
        state = self._compared(state, new, old)
        self._everywhere(self.target, _moved(state), pause)
        return state.next()

    def bake(self, state: State, pause: Pause) -> State:
        """See Way."""
        self._everywhere(self.target, _moved(state), pause)
        return self._baked(state, self.target, pause)

    def unload(self, state: State) -> State:
        """See Way."""
        self._everywhere(self.target, final(state), time.sleep)
        self.target.finish(final(state))
        return state

    def go_back(self, state: State) -> State:
        """Back to what was served before. A server that is gone has nothing to be told."""
        try:
            self._everywhere(self.target, Serve(state.model, state.versions, state.labels), time.sleep)
        except (GateError, ServingError) as error:
            raise RolloutError(f"it can't go back: {error}") from None
        return state

    def check(self, state: State) -> None:
        """See Way."""
        self.target.instances()
        self._check_address(state)

    def close(self) -> None:
        """See Way."""
        self.target.close()

    def sentence(self, state: State) -> str:
        """See Way."""
        model, old, new = state.model, state.old, state.new
        return {
            "loading": f"Loading {model} version {new} beside version {old} …",
            "proving": f"Asking the golden requests of {model} version {new} …",
            "canary": f"Label canary → version {new}, and its latency …",
            "stable": f"Label stable → version {new}, server by server …",
            "baking": f"Baking for {self.settings.bake:g} s …",
            "unloading": f"Unloading version {old} …",
            "rolling-back": f"Back to {model} version {old} …",
        }[state.phase]


def _beside(state: State, labels: dict[str, int]) -> Serve:
    """Both versions."""
    return Serve(state.model, tuple(sorted({*state.versions, state.old, state.new})), labels)


def _moved(state: State) -> Serve:
    return _beside(state, {**state.labels, CANARY: state.new, STABLE: state.new})
