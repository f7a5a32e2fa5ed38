"""The common part of both strategies, in place and by pods: verify servers, configure them, compare versions."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

from tfserving.clients import Client, connect
from tfserving.clients.busy import is_busy
from tfserving.clients.errors import ServingError
from tfserving.foundation.golden import Golden, GoldenError, read_golden
from tfserving.k8s.rollout import gates, serves
from tfserving.k8s.rollout.drift import drift
from tfserving.k8s.rollout.evaluation import evaluate
from tfserving.k8s.rollout.judge import Comparison, Verdict
from tfserving.k8s.rollout.probe import SECONDS
from tfserving.k8s.rollout.progress import Log
from tfserving.k8s.rollout.quality import require
from tfserving.k8s.rollout.remaining import about
from tfserving.k8s.rollout.sample import Sample
from tfserving.k8s.rollout.shadow import captured_requests, shadow
from tfserving.k8s.rollout.state import Figure, Gate, State
from tfserving.k8s.rollout.target import GateError, Instance, Reached, RolloutError, Serve, Target, url
from tfserving.k8s.rollout.watch import Seen, Side, Watch
from tfserving.serving.config import POLL_SECONDS_WITH_TLS
from tfserving.serving.engines import EngineError
from tfserving.serving.engines.readiness import BELIEVED_SECONDS, Earlier, missing
from tfserving.serving.models_yaml.fleet import STABLE, Fleet
from tfserving.serving.models_yaml.rollout import Rollout
from tfserving.serving.served import Served
from tfserving.serving.steps import steps

Result = TypeVar("Result")
# Sleeps for some seconds; raises when `abort` is requested.
Pause: TypeAlias = Callable[[float], None]
_POLL_SECONDS = 0.2
# If requests of clients would need longer than this for a clear result, those of the probe decide.
_PATIENCE_SECONDS = 120.0
_MOMENT_SECONDS = 1.0
# A server that polls its configuration, with TLS, reads it within this time.
_BELIEVED_SECONDS = BELIEVED_SECONDS + POLL_SECONDS_WITH_TLS
# The origin of the requests.
_OF: dict[Gate, str] = {"clients": "clients", "probe": "probe", "address": "through the address"}
_PROBE_HELP = "Set `rollout.address` to where clients send requests, or `rollout.probe: 0` to turn the probe off."


@dataclass
class Strategy(ABC):
    """Runs the phases of a rollout. A server may take `wait` seconds for a change."""

    fleet: Fleet
    wait: float
    log: Log
    _figures: list[Figure] = field(init=False, default_factory=list)

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

    @property
    def settings(self) -> Rollout:
        """The limits of the gates."""
        return self.fleet.rollout

    def _baking(self, state: State) -> str:
        """Return the line of progress of the phase `baking`; without a bake, only golden requests are sent."""
        if not self.settings.bake:
            return f"Sending golden requests to version {state.new} …"
        return f"Baking version {state.new} for {self.settings.bake:g} s …"

    def _proven(self, state: State, instances: Sequence[Instance], name: str) -> None:
        folder = self.fleet.model_folder(state.model) / str(state.new)
        for instance in instances:
            self._saw(gates.golden(Reached(instance, name, state.new), folder))

    def _compared(self, state: State, pairs: Sequence[tuple[Reached, Reached]], pause: Pause) -> None:
        """Compare an old and a new version before clients get the new one; nothing when `rollout.longest` is 0."""
        if not self.settings.longest:
            return
        old, new = pairs[0]
        for gate in (evaluate, drift, shadow):
            require(gate(self.fleet, state.model, old, new, pause), self._saw, accept=state.accept_quality)
        self._saw(gates.latency(pairs, self._golden(state.model, state.old), self.settings, pause))

    def _judged(
        self, state: State, sides: Sequence[Side], pause: Pause, before: Before | None = None, when: str = ""
    ) -> None:
        """Compare requests to the first of `sides`, with the new version, with requests to the other sides.

        The comparison ends when the new version is clearly worse, or after `window` seconds when it clearly isn't.
        After `longest` seconds the current estimate decides. `before` has the results of requests to the old version,
        where clients no longer get it. Raises GateError when the new version is worse, and when no requests came.
        """
        comparisons = self._comparisons(state, before or Before())
        started, left = time.monotonic(), dict[Gate, float]()
        with Watch(state.model, sides, self._sent(state.model, sides[-1]), self.settings) as watch:
            while True:
                pause(min(_MOMENT_SECONDS, self.settings.window))
                passed = time.monotonic() - started
                self._moment(watch, comparisons, passed)
                verdicts = {gate: one.verdict() for gate, one in comparisons.items()}
                if any(verdict.decision == "worse" for verdict in verdicts.values()):
                    break
                left = self._left(comparisons, verdicts, passed)
                if not left or passed > self.settings.longest:
                    break
                self.log(f"  {self._so_far(comparisons)}; {about(max(left.values()))} left", "waiting")
            watch.finish(pause)
            self._moment(watch, comparisons, time.monotonic() - started)
        if self.settings.longest and not any(one.new.total for one in comparisons.values()):
            raise GateError(
                f"no requests from clients in {self.settings.longest:g} s, and the probe is off. "
                "Set `rollout.probe`, or send requests during the rollout."
            )
        self._decided(state, comparisons, when, left)

    def _baked(self, state: State, target: Target, pause: Pause) -> None:
        """Watch the new version for `bake` seconds, compared with the old one's results before."""
        comparisons = self._comparisons(state, Before.of(state))
        started = time.monotonic()
        side = Side(target.instances, state.new)
        with Watch(state.model, [side], self._sent(state.model, side), self.settings) as watch:
            while (passed := time.monotonic() - started) < self.settings.bake:
                self.log(f"  {self._so_far(comparisons)}; {about(self.settings.bake - passed)} left", "waiting")
                pause(min(_MOMENT_SECONDS, self.settings.bake - passed))
                self._moment(watch, comparisons, time.monotonic() - started)
                if any(one.verdict().decision == "worse" for one in comparisons.values()):
                    break
            watch.finish(pause)
            self._moment(watch, comparisons, time.monotonic() - started)
        self._decided(state, comparisons, "bake: ", ())
        self._proven(state, target.instances(), state.model)

    def _before(self, state: State, instances: Callable[[], Sequence[Instance]], pause: Pause) -> Before:
        """Measure requests to the old version for a window, before any move."""
        found, until = Before(), time.monotonic() + self.settings.window
        side = Side(instances, state.old)
        with Watch(state.model, [side], self._sent(state.model, side), self.settings) as watch:
            while (left := until - time.monotonic()) > 0:
                self.log(f"  measuring version {state.old} before requests move; {about(left)} left", "waiting")
                pause(min(_MOMENT_SECONDS, left))
                found.add(*watch.take())
            watch.finish(pause)
            found.add(*watch.take())
        for where, sample in (("", found.probe), (f" at {self.settings.address}", found.address)):
            if sample.failed and not sample.succeeded:
                raise GateError(
                    f"all requests of the probe to version {state.old}{where} fail: {sample}. {_PROBE_HELP}"
                )
        return found

    def _comparisons(self, state: State, before: Before) -> dict[Gate, Comparison]:
        """Return a comparison for each kind of requests."""
        kinds: list[tuple[Gate, Sample]] = [("clients", before.clients)]
        if self.settings.probe:
            kinds.append(("probe", before.probe))
            if self.settings.address:
                kinds.append(("address", before.address))
        found: dict[Gate, Comparison] = {}
        for gate, sample in kinds:
            found[gate] = Comparison(self.settings, f"version {state.new}", f"version {state.old}")
            if sample.total:
                found[gate].before(sample)
        return found

    def _moment(self, watch: Watch, comparisons: dict[Gate, Comparison], at: float) -> None:
        """Add the results of requests since the last call."""
        (new, *others), through = watch.take()
        clients, probe = Sample(), Sample()
        for old in others:
            clients.add(old.clients)
            probe.add(old.probe)
        comparisons["clients"].add(new.clients, clients, at)
        if "probe" in comparisons:
            comparisons["probe"].add(new.probe, probe, at, shared=watch.shares)
        if "address" in comparisons:
            comparisons["address"].add(through, Sample(), at)

    def _left(
        self, comparisons: dict[Gate, Comparison], verdicts: dict[Gate, Verdict], passed: float
    ) -> dict[Gate, float]:
        """Return about how many more seconds each comparison needs that isn't clear yet.

        If clients send so few requests that it would take too long, those of the probe decide.
        """
        found: dict[Gate, float] = {}
        for gate, one in comparisons.items():
            if verdicts[gate].decision == "fine":
                continue
            rate = one.new.total / passed
            needed = verdicts[gate].needed / rate if rate else float("inf")
            if gate == "clients" and self.settings.probe and passed + needed > _PATIENCE_SECONDS:
                needed = self.settings.window - passed
                if needed <= 0:
                    continue
            found[gate] = min(max(needed, _MOMENT_SECONDS), max(self.settings.longest - passed, 0.0))
        return found

    def _so_far(self, comparisons: dict[Gate, Comparison]) -> str:
        """Return how many requests are compared, from clients and from the probe."""
        clients, probe = comparisons["clients"].new.total, comparisons["probe"].new.total if self.settings.probe else 0
        if not clients and not self.settings.probe:
            return "no requests from clients, and the probe is off: send some, or set `rollout.probe`"
        return f"requests to the new version: {clients} from clients, {probe} from the probe"

    def _decided(self, state: State, comparisons: dict[Gate, Comparison], when: str, unclear: Container[Gate]) -> None:
        """Record the comparisons. Raises GateError when the new version is worse; the estimate decides if `unclear`."""
        reason = ""
        for gate, one in comparisons.items():
            verdict, prefix = one.last() if gate in unclear else one.verdict(), f"{when}{_OF[gate]}: "
            worse = verdict.decision == "worse"
            if gate == "clients" and not one.new.total:
                if self.settings.longest:
                    self.log(f"  {when}clients: no requests to version {state.new}")
                continue
            self._saw(Figure(gate, f"{prefix}{one}", passed=not worse, numbers=dict(one.numbers())))
            reason = reason or (f"{prefix}{verdict.reason}" if worse else "")
        if reason:
            raise GateError(reason)

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
                raise RolloutError(f"rollout.address {address}: {error.code}: {error.text}. {_PROBE_HELP}") from None

    def _golden(self, model: str, version: int) -> Golden:
        try:
            return read_golden(self.fleet.model_folder(model) / str(version))
        except GoldenError as error:
            raise GateError(str(error)) from None

    def _sent(self, model: str, side: Side) -> Golden:
        """Return the requests of the probe: the golden requests of a side's version, and captured requests if given.

        While two versions are compared, they are those of the old one, since clients still send what they sent before.
        """
        golden, file = self._golden(model, side.version), self.settings.shadow
        if not (file and self.settings.probe):
            return golden
        with connect(url(side.instances()[0])) as client:
            captured = captured_requests(file, model, client, self.settings.shadow_requests)
        return replace(golden, requests=(*golden.requests, *(one.request for one in captured)))

    def _everywhere(self, target: Target, serve: Serve, pause: Pause, *, keep: bool = True) -> None:
        """Configure every server, including those that start meanwhile; with `keep`, also for restarts."""
        if keep:
            target.keep(serve)
        done: set[str] = set()
        while new := [instance for instance in target.instances() if instance.name not in done]:
            for instance in new:
                self._one(instance, serve, pause, keep=keep)
                done.add(instance.name)

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

    def _saw(self, figure: Figure) -> None:
        """Record a measurement. A failed one isn't printed here: it is the reason of the rollback."""
        self._figures.append(figure)
        if figure.passed:
            self.log(f"  {figure}")


@dataclass
class Before:
    """Results of requests to the old version before."""

    clients: Sample = field(default_factory=Sample)
    probe: Sample = field(default_factory=Sample)
    address: Sample = field(default_factory=Sample)

    def add(self, seen: Sequence[Seen], through: Sample) -> None:
        """Add more results."""
        for one in seen:
            self.clients.add(one.clients)
            self.probe.add(one.probe)
        self.address.add(through)

    @classmethod
    def of(cls, state: State) -> Before:
        """Return the results in the figures of the phase `stable`."""
        found = cls()
        for figure in state.figures:
            # A long rollout may have dropped numbers.
            if figure.phase == "stable" and figure.gate in found.__dict__ and "failures" in figure.numbers:
                old = figure.numbers["failures"]["old"]
                failed = Counter[str](old["failures"])
                sample = Sample(old["requests"] - failed.total(), failed=failed)
                if figure.gate == "address":
                    # It is the same for each weight.
                    found.address = sample
                else:
                    getattr(found, figure.gate).add(sample)
        return found
