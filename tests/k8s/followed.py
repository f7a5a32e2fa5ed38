"""Rollouts whose phases a test hears of before they begin: in its own process, or in one that it can kill.

    python -m tests.k8s.followed rollout start …

does what `tfserving rollout start …` does. Whenever the state is noted, before what it says begins, it prints that
as a line on stdout, and reads a line of stdin before it goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest.mock import patch

from tfserving.k8s.rollout.cluster import ClusterStore
from tfserving.k8s.rollout.local import LocalStore
from tfserving.k8s.rollout.state import Phase, State, read_state

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 180.0


@contextlib.contextmanager
def phases_told(hear: Callable[[State], object]) -> Iterator[None]:
    """A rollout of this process tells `hear` each state as soon as it is noted, before it goes on.

    A phase is told once, though what it will take is noted when it begins.
    """
    with contextlib.ExitStack() as stack:
        for store in (LocalStore, ClusterStore):
            stack.enter_context(patch.object(store, "save", _telling(store.save, hear)))
        yield


def _telling(save: Callable[..., None], hear: Callable[[State], object]) -> Callable[..., None]:
    told: tuple[object, ...] = ()

    def saved(self: object, state: State) -> None:
        nonlocal told
        save(self, state)
        if told != (told := (state.new, state.phase, state.weight, state.paused)):
            hear(state)

    return saved


@dataclass
class Followed:
    """A rollout in a process of its own, which holds at every state until it is let go on."""

    process: subprocess.Popen[str]
    errors: Path
    states: list[State] = field(default_factory=list)
    _holds: bool = False

    def until(self, phase: Phase | None, hear: Callable[[State], object], weight: int = 0) -> bool:
        """Lets it go on until it holds where `phase` begins, or to its end; `hear` gets each state, that one, too.

        By pods `weight` percent of the requests have moved then. Returns whether it holds there.
        """
        self.go_on()
        while (state := self.next()) is not None:
            hear(state)
            if state.phase == phase and state.weight >= weight:
                return True
            self.go_on()
        return False

    def next(self) -> State | None:
        """The next state, at which it holds; None when it has ended."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], _SECONDS)
        assert readable, f"nothing for {_SECONDS} s:\n{self.said}"
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(_SECONDS)
            return None
        self.states.append(read_state(line))
        self._holds = True
        return self.states[-1]

    def go_on(self) -> None:
        """Lets it go on from where it holds."""
        assert self.process.stdin is not None
        if self._holds:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        self._holds = False

    def kill(self) -> None:
        """SIGKILL, wherever it is."""
        self.process.kill()
        self.process.wait(_SECONDS)
        self._holds = False

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self.errors.read_text()


@contextlib.contextmanager
def followed(words: list[str], errors: Path, env: Mapping[str, str] | None = None) -> Iterator[Followed]:
    """`tfserving WORDS` in a process of its own; what it prints goes to the file `errors`."""
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.k8s.followed", *words],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            bufsize=1,
        )
        try:
            yield Followed(process, errors)
        finally:
            process.kill()
            process.communicate()


def _hold(state: State) -> None:
    print(json.dumps(asdict(state)), flush=True)
    if not sys.stdin.readline():
        sys.exit("nobody follows any more")


if __name__ == "__main__":
    from tfserving.cli import tfserving

    with phases_told(_hold):
        tfserving()
