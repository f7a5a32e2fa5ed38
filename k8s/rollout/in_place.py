"""A rollout in place: every server loads the new version beside the old one, and clients move server by server.

`tfserving.k8s.rollout.serves` shows the names under which versions are loaded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tfserving.clients.errors import ServingError
from tfserving.k8s.at_once import Pause
from tfserving.k8s.rollout import serves, tolerances
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.strategy import Strategy
from tfserving.k8s.rollout.target import GateError, Reached, RolloutError, Target
from tfserving.k8s.rollout.watch import Side
from tfserving.serving.models_yaml.fleet import canary_name


@dataclass
class InPlace(Strategy):
    """Over the servers of `target`."""

    target: Target

    def load(self, state: State, pause: Pause) -> None:
        """Load it without keeping it: after a restart the server begins without a version that may crash it."""
        self._everywhere(self.target, serves.loading(state), pause, keep=False)

    def prove(self, state: State, pause: Pause) -> None:
        """Load it again on servers that have restarted, then send the golden requests."""
        self._everywhere(self.target, serves.loading(state), pause, keep=False)
        self._proven(state, self.target.instances(), canary_name(state.model), pause)

    def compare(self, state: State, pause: Pause) -> None:
        """Compare both versions on every server, under their two names."""
        self._everywhere(self.target, serves.trial(state), pause)
        pairs = [
            (Reached(instance, state.model, state.old), Reached(instance, canary_name(state.model), state.new))
            for instance in self.target.instances()
        ]
        self._compared(state, pairs, pause)

    def move(self, state: State, pause: Pause) -> State:
        """Move the clients of the first server, compare it with the other servers, then move their clients.

        A single server is compared with itself: requests of clients with those before, requests of the probe with those
        that it sends to the old version by number.
        """
        first, *others = self.target.instances()
        before = None
        if not others or self.settings.address:
            # Of a rollout that is resumed, some servers may have moved.
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
        """See Strategy."""
        self._everywhere(self.target, serves.moved(state), pause)
        self._baked(state, self.target, pause)

    def unload(self, state: State) -> None:
        """See Strategy."""
        self._everywhere(self.target, serves.final(state), time.sleep)
        self.target.finish(state.model, serves.final_labels(state))

    def go_back(self, state: State) -> None:
        """Restore the configuration before the rollout. A server that is gone needs no change."""
        try:
            self._everywhere(self.target, serves.before(state), time.sleep)
        except (GateError, ServingError) as error:
            raise RolloutError(f"the rollback failed: {error}") from None

    def check(self, state: State) -> None:
        """See Strategy."""
        instances = self.target.instances()
        if state.phase == "loading":
            tolerances.check(self.fleet, state.model, state.new, {instance.device for instance in instances})
        self._check_address(state)

    def close(self) -> None:
        """See Strategy."""
        self.target.close()

    def sentence(self, state: State) -> str:
        """See Strategy."""
        model, old, new = state.model, state.old, state.new
        return {
            "loading": f"Loading {model} version {new} as {canary_name(model)}, beside version {old} …",
            "proving": f"Sending golden requests to {canary_name(model)} …",
            "canary": self._comparing(state),
            "stable": f"Moving clients of {model} to version {new} …",
            "baking": self._baking(state),
            "unloading": f"Unloading version {old} …",
            "rolling-back": f"Rolling back to version {old} …",
        }[state.phase]
