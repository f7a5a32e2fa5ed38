"""The one that rolls out: goes from phase to phase, keeps the state, and turns back when a gate fails."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from tfserving.clients.errors import ServingError
from tfserving.k8s.rollout.progress import Progress
from tfserving.k8s.rollout.remaining import about, remaining
from tfserving.k8s.rollout.state import Request, State
from tfserving.k8s.rollout.target import GateError, RolloutError, Store
from tfserving.k8s.rollout.way import Way

_POLL_SECONDS = 0.2
# A time left that is shorter than this is not worth a word.
_SHORT_SECONDS = 5.0


class _AbortedError(Exception):
    """Somebody asked to go back."""


@dataclass
class Controller:
    """Rolls a model out by `way`."""

    way: Way
    store: Store
    say: Progress
    _pending: Request | None = None

    def run(self, state: State) -> State:
        """Goes on from `state` until the rollout is over, which the caller has the lease for; returns how it ended.

        Raises RolloutError when there is nobody to tell, or going back fails; the state stays for another try.
        """
        self.store.save(state)
        while not state.over:
            try:
                state = self._begin(self._hold(state))
                done = self.way.do(state, self._pass if state.returnable else time.sleep)
            except _AbortedError:
                done = self._turn(self.way.seen(state, state), "aborted")
            except (GateError, ServingError) as error:
                done = self._turn(self.way.seen(state, state), f"{state.phase}: {error}")
            state = done.begun(0.0) if done.over else done
            self.store.save(state)
        if state.phase == "done":
            self.say(f"{state.model} version {state.new} is stable.", "good")
        else:
            # Why is for the command to say, at its end.
            self.say(f"{state.model} version {state.old} serves as before.", "bad")
        return state

    def _begin(self, state: State) -> State:
        """Notes that the phase begins, and says so, and how long the rest takes."""
        seconds = remaining(state, self.way.settings)
        state = state.begun(seconds)
        self.store.save(state)
        sentence = self.way.sentence(state)
        # How long it bakes is in the sentence.
        shown = (
            "" if seconds is None or seconds < _SHORT_SECONDS or state.phase == "baking" else f" {about(seconds)} left"
        )
        self.say(f"{sentence}{shown}")
        return state

    def _turn(self, state: State, reason: str) -> State:
        """Turns back; where there is no way back any more, the failure is the caller's to deal with."""
        if not state.returnable:
            raise RolloutError(f"{reason}; it is left where it is")
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
