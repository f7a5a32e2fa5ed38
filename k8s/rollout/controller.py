"""The controller of a rollout: runs phase after phase, stores the state, and rolls back when a gate fails."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from tfserving.clients.errors import ServingError
from tfserving.k8s.hints import recommended
from tfserving.k8s.rollout.progress import Progress
from tfserving.k8s.rollout.remaining import about, remaining
from tfserving.k8s.rollout.state import Request, State
from tfserving.k8s.rollout.strategy import Strategy
from tfserving.k8s.rollout.target import GateError, RolloutError, Store

_POLL_SECONDS = 0.2
# A shorter remaining time isn't printed.
_SHORT_SECONDS = 5.0


class _AbortedError(Exception):
    """`abort` was requested."""


@dataclass
class Controller:
    """Rolls a model out with a strategy: in place, or by pods."""

    strategy: Strategy
    store: Store
    log: Progress
    _pending: Request | None = None

    def run(self, state: State) -> State:
        """Run the rollout from `state` to its end; return the final state. The caller holds the lease.

        Raises RolloutError when no server is there, or the rollback fails. The stored state allows another try.
        """
        self.store.save(state)
        while not state.over:
            try:
                state = self._begin(self._hold(state))
                done = self.strategy.do(state, self._pass if state.returnable else time.sleep)
            except _AbortedError:
                done = self._turn(self.strategy.seen(state, state), "aborted")
            except (GateError, ServingError) as error:
                done = self._turn(self.strategy.seen(state, state), f"{state.phase}: {error}")
            state = done.begun(0.0) if done.over else done
            self.store.save(state)
        if state.phase == "done":
            self.log(f"{state.model} version {state.new} is stable.", "good")
        else:
            # The command prints the reason at its end.
            self.log(f"Clients of {state.model} get version {state.old}.", "bad")
        return state

    def _begin(self, state: State) -> State:
        """Store and print that the phase begins, with the remaining time."""
        seconds = remaining(state, self.strategy.settings)
        state = state.begun(seconds)
        self.store.save(state)
        sentence = self.strategy.sentence(state)
        # The sentence of this phase has its time.
        shown = (
            "" if seconds is None or seconds < _SHORT_SECONDS or state.phase == "baking" else f" {about(seconds)} left"
        )
        self.log(f"{sentence}{shown}")
        return state

    def _turn(self, state: State, reason: str) -> State:
        """Begin to roll back. Raises RolloutError in a phase from which that is no longer possible."""
        if not state.returnable:
            raise RolloutError(f"{reason}; the rollout stays in phase `{state.phase}`")
        return state.back(reason)

    def _hold(self, state: State) -> State:
        """Wait while the rollout is paused, or until a manual one is promoted."""
        gate = state.manual and state.phase == "stable"
        printed = False
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
            if not printed:
                printed = True
                self.log(
                    f"Paused before phase `{state.phase}`. "
                    f"Continue with `{recommended(f'rollout promote {state.model}')}`, "
                    f"or go back with `{recommended(f'rollout abort {state.model}')}`."
                )
            time.sleep(_POLL_SECONDS)

    def _request(self) -> Request | None:
        """Return the request that came now or during the last phase."""
        request, self._pending = self.store.take_request() or self._pending, None
        return request

    def _pass(self, seconds: float) -> None:
        """Sleep in a phase that can be aborted. Raises _AbortedError when `abort` is requested."""
        until = time.monotonic() + seconds
        while True:
            request = self.store.take_request()
            if request == "abort":
                raise _AbortedError
            # Other requests take effect at the end of this phase.
            self._pending = request or self._pending
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(_POLL_SECONDS, left))
