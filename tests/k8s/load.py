"""A steady load of all kinds of clients, over both protocols; every answer must be one that is due at its time.

What is due to clients of a model NAME while a rollout in place goes from version `old` to `new`; 404 is NOT_FOUND:

    phase            NAME, without a label   NAME by version   NAME by version   NAME-canary, without a label
                     or by `stable`          old               new               or by `canary`
    before           old                     old               404               404
    loading          old                     old               404               404, new
    proving, canary  old                     old               404               new
    stable           old, new                old               404, new          new
    baking           new                     old               new               new
    unloading        new                     old, 404          new               new, 404
    done             new                     404               new               404
    rolling-back     old; and new, where     old               404; and new,     new, 404
                     it had moved                              where it had moved
    rolled-back      old                     old               404               404

A version that is lower than the old one takes its place at once: from `stable` on `old` may be 404. By pods there is no
NAME-canary, and what a client gets by version depends on the pod. With `canary` in models.yaml NAME-canary always has
a version: the label's, until `canary` and again from `rolling-back` on.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.servers import wait_for
from tfserving.clients import Client, connect
from tfserving.clients.errors import InvalidArgument, NotFound, ServingError
from tfserving.k8s.rollout.state import State
from tfserving.serving.models_yaml.fleet import CANARY, STABLE, canary_name

# A version, or the code of an error.
Outcome: TypeAlias = int | str
NOWHERE = NotFound.code
# Where no server is. Once the embedded server has drained, gRPC cancels what comes just then.
DOWN = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})
_MOST_IN_FLIGHT = 16


@dataclass(frozen=True)
class Kind:
    """What a client asks for: NAME or NAME-canary, and a version, a label, or neither."""

    canary: bool = False
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        name = "NAME-canary" if self.canary else "NAME"
        return f"{name} version {self.version}" if self.version else f"{name} {self.label or 'unlabelled'}"


UNLABELLED, BY_STABLE = Kind(), Kind(label=STABLE)
OF_CANARY = (Kind(canary=True), Kind(canary=True, label=CANARY))


def by_version(*versions: int) -> tuple[Kind, ...]:
    """Clients of these versions of NAME."""
    return tuple(Kind(version=version) for version in versions)


@dataclass
class Due:
    """What a kind of client may get, over time."""

    _since: list[tuple[float, str, frozenset[Outcome]]] = field(default_factory=list)

    def becomes(self, outcomes: frozenset[Outcome], phase: str = "") -> None:
        """From now on these."""
        self._since.append((time.monotonic(), phase, outcomes))

    def between(self, sent: float, received: float) -> tuple[str, frozenset[Outcome]]:
        """The phases of that time, and all that was due in them."""
        phases, found = list[str](), frozenset[Outcome]()
        for at, phase, outcomes in reversed(list(self._since)):
            if at <= received:
                phases.append(phase)
                found |= outcomes
            if at <= sent:
                break
        return " to ".join(reversed(phases)), found


@dataclass
class Load:
    """`rate` requests a second to `model`, of clients of `kinds`; version N of it answers N times the sum of a row.

    It begins with version `stable`, and with `canary` where models.yaml has that. `host` is the name that REST is asked
    by, where it isn't the address.

    Where servers have ended during a rollout (`down`, `some_end`), what is on trial may be missing until it is over.
    """

    addresses: tuple[str, ...]
    rate: float = 60.0
    model: str = "scaled"
    host: str | None = None
    stable: int = 1
    canary: int | None = None
    kinds: tuple[Kind, ...] = (UNLABELLED, BY_STABLE, *by_version(1, 2), UNLABELLED, BY_STABLE, *OF_CANARY)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    counts: Counter[tuple[Kind, str, Outcome]] = field(default_factory=Counter)
    _state: State | None = None
    _moved: bool = False
    _restarted: bool = False
    _forgotten: bool = False

    def __enter__(self) -> Load:
        self._over = threading.Event()
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._due = {kind: Due() for kind in self.kinds}
        self._outage = Due()
        self._outage.becomes(frozenset())
        self._widen()
        self._clients = [
            connect(address, timeout=20, metadata={"host": self.host} if self.host and "http" in address else None)
            for address in self.addresses
        ]
        self._pool = ThreadPoolExecutor(_MOST_IN_FLIGHT)
        self._room = threading.Semaphore(2 * _MOST_IN_FLIGHT)
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        return self

    def end(self) -> None:
        """Sends no more."""
        self._over.set()

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join()
        self._pool.shutdown()
        for client in self._clients:
            client.close()

    def enters(self, state: State) -> None:
        """A rollout is about to begin with its phase, and has done with the one before."""
        self._moved = state.phase in ("stable", "baking", "unloading") or (
            self._moved and state.phase == "rolling-back"
        )
        self._state = state
        if state.over:
            self._restarted = self._forgotten = False
            self.stable = state.new if state.phase == "done" else state.old
            if self.canary and state.phase == "done":
                self.canary = state.new
        self._widen()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """The only server of this machine ends, and another takes its place: clients find none meanwhile.

        That begins with what models.yaml says, and goes on with the rollout.
        """
        self.some_end()
        self._forgotten = self._restarted
        self._widen()
        self._outage.becomes(DOWN, "down")
        yield
        # Connections that failed are tried again after a while.
        for client in self._clients:
            wait_for(lambda client=client: self._reaches(client), what="a connection")  # type: ignore[misc]
        self._outage.becomes(frozenset(), "up")

    def some_end(self) -> None:
        """Pods are about to end, and others to start, with what is kept for them."""
        self._restarted = self._state is not None and not self._state.over
        self._widen()

    @property
    def phase(self) -> str:
        """That of the rollout."""
        return self._state.phase if self._state else "before"

    @property
    def versions(self) -> dict[int, int]:
        """How often which version was the answer to clients without a label, or by `stable`."""
        found = Counter[int]()
        for (kind, _, outcome), count in list(self.counts.items()):
            if kind in (UNLABELLED, BY_STABLE) and isinstance(outcome, int):
                found[outcome] += count
        return found

    @property
    def answered(self) -> int:
        return sum(self.versions.values())

    def p99(self, since: int = 0) -> float:
        """Of the answers after so many, in seconds."""
        found = sorted(self.seconds[since:])
        return found[int(0.99 * len(found))]

    def _widen(self) -> None:
        state = self._state
        for kind, due in self._due.items():
            if kind.canary:
                due.becomes(self._of_canary(state), self.phase)
            elif kind.version is None:
                due.becomes(self._of_all(state), self.phase)
            else:
                due.becomes(self._of_version(kind.version, state), self.phase)

    def _of_all(self, state: State | None) -> frozenset[Outcome]:
        if state is None or state.over:
            return frozenset({self.stable})
        match state.phase:
            case "stable":
                return frozenset({state.old, state.new})
            case "baking" | "unloading":
                return frozenset({state.old, state.new} if self._forgotten else {state.new})
            case "rolling-back" if self._moved:
                return frozenset({state.old, state.new})
        return frozenset({state.old})

    def _of_version(self, version: int, state: State | None) -> frozenset[Outcome]:
        if state is None or state.over:
            return frozenset({version if version == self.stable else NOWHERE})
        if self._moved and (state.strategy == "pods" or (self._restarted and version == state.new)):
            return frozenset({version, NOWHERE})
        lower = state.new < state.old
        if version == state.old:
            gone = state.phase == "unloading" or (lower and self._moved)
            return frozenset({version, NOWHERE} if gone else {version})
        if version == state.new and self._moved:
            return frozenset({version} if state.phase in ("baking", "unloading") else {version, NOWHERE})
        return frozenset({NOWHERE})

    def _of_canary(self, state: State | None) -> frozenset[Outcome]:
        none: Outcome = self.canary or NOWHERE
        if state is None or state.over or state.strategy == "pods":
            return frozenset({none})
        there = ("stable", "baking") if self.canary else ("proving", "canary", "stable", "baking")
        return frozenset({state.new} if state.phase in there and not self._restarted else {state.new, none})

    def _reaches(self, client: Client) -> bool:
        with contextlib.suppress(ServingError):
            return bool(client.predict(self.model, [[1.0, 2.0, 3.0]], label=STABLE))
        return False

    def _send(self) -> None:
        started, sent = time.monotonic(), 0
        while not self._over.wait(max(0.0, started + sent / self.rate - time.monotonic())):
            # More would wait for one another where no server is.
            if self._room.acquire(blocking=False):
                self._pool.submit(self._ask, sent)
            sent += 1

    def _ask(self, number: int) -> None:
        kind = self.kinds[number % len(self.kinds)]
        client = self._clients[number // len(self.kinds) % len(self._clients)]
        sent = time.monotonic()
        try:
            outcome, what = self._outcome(client, kind, float(number % 100))
            received = time.monotonic()
            phase, due = self._due[kind].between(sent, received)
            _, outage = self._outage.between(sent, received)
            with self._lock:
                self.counts[kind, client.protocol, outcome] += 1
                if outcome not in due | outage:
                    at = f"{received - self._began:.3f} s, {received - sent:.3f} s after it was sent, {phase}"
                    listed = ", ".join(sorted(map(str, due)))
                    self.failures.append(f"{at}: {kind} over {client.protocol}: {what}; due is {listed}")
                elif kind in (UNLABELLED, BY_STABLE) and isinstance(outcome, int):
                    self.seconds.append(received - sent)
        except Exception as error:
            self.failures.append(f"{kind} over {client.protocol}: {error!r}")
            raise
        finally:
            self._room.release()

    def _outcome(self, client: Client, kind: Kind, last: float) -> tuple[Outcome, str]:
        """What came of a request, and that in words. The version is known by the outputs, not by what is said of it."""
        name = canary_name(self.model) if kind.canary else self.model
        try:
            answer = client.predict(name, [[1.0, 2.0, last]], version=kind.version, label=kind.label)
        except InvalidArgument as error:
            # Of a model that isn't there no label is known.
            unknown = kind.label is not None and "Unrecognized servable version label" in error.text
            return NOWHERE if unknown else error.code, repr(error)
        except ServingError as error:
            return error.code, repr(error)
        (output,) = answer.outputs["sums"].tolist()
        scale, rest = divmod(output, 3.0 + last)
        if rest:
            return "WRONG", f"output {output} is of no version"
        version = int(scale)
        if answer.version not in (None, version):
            return "WRONG", f"output {output} is version {version}'s, and the answer says {answer.version}"
        return version, f"version {version}"
