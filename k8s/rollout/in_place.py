"""A rollout in place: each server that there is loads the new version beside the old one, and clients move.

`tfserving.k8s.rollout.serves` shows under which names.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tfserving.clients.errors import ServingError
from tfserving.k8s.rollout import serves
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import GateError, Reached, RolloutError, Target
from tfserving.k8s.rollout.watch import Side
from tfserving.k8s.rollout.way import Pause, Way
from tfserving.serving.models_yaml.fleet import canary_name


@dataclass
class InPlace(Way):
    """Over the servers of `target`."""

    target: Target

    def load(self, state: State, pause: Pause) -> None:
        """A server that is started again begins without the new version, which may keep it from starting."""
        self._everywhere(self.target, serves.loading(state), pause, keep=False)

    def prove(self, state: State, pause: Pause) -> None:
        """Servers that were started again in the meantime load it again."""
        self._everywhere(self.target, serves.loading(state), pause, keep=False)
        self._proven(state, self.target.instances(), canary_name(state.model))

    def compare(self, state: State, pause: Pause) -> None:
        """On every server both versions are compared, under their two names."""
        self._everywhere(self.target, serves.trial(state), pause)
        pairs = [
            (Reached(instance, state.model, state.old), Reached(instance, canary_name(state.model), state.new))
            for instance in self.target.instances()
        ]
        self._compared(state, pairs, pause)

    def move(self, state: State, pause: Pause) -> State:
        """Moves the clients of the first server, compares it with the others, then moves theirs.

        One that is alone is compared with itself: its clients with those before, the probe's requests with such to the
        old version, by its number.
        """
        first, *others = self.target.instances()
        before = None
        if not others or self.settings.address:
            # Whoever goes on with a rollout may find that some have moved.
            self._everywhere(self.target, serves.trial(state), pause)
            before = self._before(state, self.target.instances, pause)
        self._one(first, serves.moved(state), pause)
        sides = [Side(lambda: [first], state.new)]
        if others:
            sides.append(Side(lambda: others, state.old))
        elif state.old < state.new:
            sides.append(Side(lambda: [first], state.old, by_number=True))
        self._judged(state, sides, pause, before)
        self._everywhere(self.target, serves.moved(state), pause)
        return state.next()

    def bake(self, state: State, pause: Pause) -> None:
        """See Way."""
        self._everywhere(self.target, serves.moved(state), pause)
        self._baked(state, self.target, pause)

    def unload(self, state: State) -> None:
        """See Way."""
        self._everywhere(self.target, serves.final(state), time.sleep)
        self.target.finish(state.model, serves.final_labels(state))

    def go_back(self, state: State) -> None:
        """Back to what was served before. A server that is gone has nothing to change."""
        try:
            self._everywhere(self.target, serves.before(state), time.sleep)
        except (GateError, ServingError) as error:
            raise RolloutError(f"it can't go back: {error}") from None

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
            "loading": f"Loading {model} version {new} as {canary_name(model)}, beside version {old} …",
            "proving": f"Sending {canary_name(model)} the golden requests of version {new} …",
            "canary": f"Comparing version {new} with version {old}, before any client of {model} gets it …",
            "stable": f"Version {new} for the clients of {model}, server by server …",
            "baking": f"Baking for {self.settings.bake:g} s …",
            "unloading": f"Unloading version {old} …",
            "rolling-back": f"Rolling back to version {old} …",
        }[state.phase]
