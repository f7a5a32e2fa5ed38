"""What the two ways of rolling out have in common: to prove servers, to change what they serve, to watch them."""

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
from tfserving.k8s.rollout.progress import Say
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
# Lets so many seconds pass; raises when somebody wants the rollout taken back.
Pause: TypeAlias = Callable[[float], None]
_POLL_SECONDS = 0.2
# Where it takes clients longer to make a comparison clear, the requests of the probe have to do.
_PATIENCE_SECONDS = 120.0
_MOMENT_SECONDS = 1.0
# A server that polls its configuration, with TLS, reads it within this time.
_BELIEVED_SECONDS = BELIEVED_SECONDS + POLL_SECONDS_WITH_TLS
# Whose requests.
_OF: dict[Gate, str] = {"clients": "clients", "probe": "probe", "address": "through the address"}
_PROBE_HELP = "`rollout.address` says where clients send requests, `rollout.probe: 0` turns the probe off"


@dataclass
class Way(ABC):
    """Does what a phase is for, as `fleet` says. A server may take `wait` seconds for a change."""

    fleet: Fleet
    wait: float
    say: Say
    _figures: list[Figure] = field(init=False, default_factory=list)

    def do(self, state: State, pause: Pause) -> State:
        """Does what the phase is for; returns the state after it. `seen` has what its gates saw, if it fails, too.

        Raises GateError when the new version may not go on, ServingError when a call to a server fails, and
        RolloutError when nothing more can be done now.
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
        """`state` with what the gates of the phase saw that was done last, which began as `during`."""
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
        """Has the new version loaded, where no client gets it that didn't choose to."""

    @abstractmethod
    def prove(self, state: State, pause: Pause) -> None:
        """Sends every server with the new version its golden requests, and compares the responses."""

    @abstractmethod
    def compare(self, state: State, pause: Pause) -> None:
        """Compares the versions before any client gets the new one that didn't choose to."""

    @abstractmethod
    def move(self, state: State, pause: Pause) -> State:
        """Moves requests to the new version; returns the state of the next phase, or of the next part of this one."""

    @abstractmethod
    def bake(self, state: State, pause: Pause) -> None:
        """Watches the new version for a while."""

    @abstractmethod
    def unload(self, state: State) -> None:
        """Lets the old version go."""

    @abstractmethod
    def go_back(self, state: State) -> None:
        """Has all as it was before. Raises RolloutError when that can't be."""

    @abstractmethod
    def sentence(self, state: State) -> str:
        """What the phase is about to do."""

    @abstractmethod
    def check(self, state: State) -> None:
        """Raises RolloutError when a rollout that is so far can't go on here."""

    @abstractmethod
    def close(self) -> None:
        """Gives up what it needed to reach the servers."""

    @property
    def settings(self) -> Rollout:
        """What the gates allow."""
        return self.fleet.rollout

    def _proven(self, state: State, instances: Sequence[Instance], name: str) -> None:
        folder = self.fleet.model_folder(state.model) / str(state.new)
        for instance in instances:
            self._saw(gates.golden(Reached(instance, name, state.new), folder))

    def _compared(self, state: State, pairs: Sequence[tuple[Reached, Reached]], pause: Pause) -> None:
        """Compares an old and a new version where no client gets the new one yet; not where no time is to be lost."""
        if not self.settings.longest:
            return
        old, new = pairs[0]
        for gate in (evaluate, drift, shadow):
            require(gate(self.fleet, state.model, old, new, pause), self._saw, accept=state.accept_quality)
        self._saw(gates.latency(pairs, self._golden(state.model, state.old), self.settings, pause))

    def _judged(
        self, state: State, sides: Sequence[Side], pause: Pause, before: Before | None = None, when: str = ""
    ) -> None:
        """Compares what comes of requests to the first of `sides`, with the new version, and to the others.

        It ends when the new one is clearly worse, or, after `window` seconds, clearly isn't, and after `longest`
        seconds as it stands then. `before` is what came of requests to the old version, where none gets it any more.
        Raises GateError when the new version is worse, and when no requests came.
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
                self.say(f"  {self._so_far(comparisons)}; {about(max(left.values()))} left", "waiting")
            watch.finish(pause)
            self._moment(watch, comparisons, time.monotonic() - started)
        if self.settings.longest and not any(one.new.total for one in comparisons.values()):
            raise GateError(f"no requests came in {self.settings.longest:g} s, and the probe is off; {_PROBE_HELP}")
        self._decided(state, comparisons, when, left)

    def _baked(self, state: State, target: Target, pause: Pause) -> None:
        """Watches the new version alone for a while; what the old one did before is what it is compared with."""
        comparisons = self._comparisons(state, Before.of(state))
        started = time.monotonic()
        side = Side(target.instances, state.new)
        with Watch(state.model, [side], self._sent(state.model, side), self.settings) as watch:
            while (passed := time.monotonic() - started) < self.settings.bake:
                self.say(f"  {self._so_far(comparisons)}; {about(self.settings.bake - passed)} left", "waiting")
                pause(min(_MOMENT_SECONDS, self.settings.bake - passed))
                self._moment(watch, comparisons, time.monotonic() - started)
                if any(one.verdict().decision == "worse" for one in comparisons.values()):
                    break
            watch.finish(pause)
            self._moment(watch, comparisons, time.monotonic() - started)
        self._decided(state, comparisons, "while it baked: ", ())
        self._proven(state, target.instances(), state.model)

    def _before(self, state: State, instances: Callable[[], Sequence[Instance]], pause: Pause) -> Before:
        """What comes of requests to the old version in a window, before any moves."""
        found, until = Before(), time.monotonic() + self.settings.window
        side = Side(instances, state.old)
        with Watch(state.model, [side], self._sent(state.model, side), self.settings) as watch:
            while (left := until - time.monotonic()) > 0:
                self.say(f"  requests to version {state.old}, before any moves; {about(left)} left", "waiting")
                pause(min(_MOMENT_SECONDS, left))
                found.add(*watch.take())
            watch.finish(pause)
            found.add(*watch.take())
        for said, sample in (("", found.probe), (f" at {self.settings.address}", found.address)):
            if sample.failed and not sample.answered:
                raise GateError(
                    f"none of the probe's requests to version {state.old}{said} succeeds: {sample}; {_PROBE_HELP}"
                )
        return found

    def _comparisons(self, state: State, before: Before) -> dict[Gate, Comparison]:
        """One of each kind of requests that there is."""
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
        """Counts what came of requests in the last moment."""
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
        """For how many seconds more each comparison goes on, about, that isn't clear yet.

        Where clients send so few requests that it would take too long, the probe's have to do.
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
        """Whose requests are compared, and how many there were."""
        clients, probe = comparisons["clients"].new.total, comparisons["probe"].new.total if self.settings.probe else 0
        if not clients and not self.settings.probe:
            return "no client sends requests, and the probe is off: send some, or set `rollout.probe`"
        who = f"{clients} requests of clients" if clients else "no client sends requests, so golden requests are sent"
        return f"{who}: {probe}" if probe and not clients else f"{who}, {probe} of the probe" if probe else who

    def _decided(self, state: State, comparisons: dict[Gate, Comparison], when: str, unclear: Container[Gate]) -> None:
        """Keeps what was seen. Raises GateError when the new version is worse: clearly, or as it stands (`unclear`)."""
        reason = ""
        for gate, one in comparisons.items():
            verdict, said = one.last() if gate in unclear else one.verdict(), f"{when}{_OF[gate]}: "
            worse = verdict.decision == "worse"
            if gate == "clients" and not one.new.total:
                self.say(f"  {when}no client sent a request to version {state.new}")
                continue
            self._saw(Figure(gate, f"{said}{one}", passed=not worse, numbers=dict(one.numbers())))
            reason = reason or (f"{said}{verdict.reason}" if worse else "")
        if reason:
            raise GateError(reason)

    def _check_address(self, state: State) -> None:
        """Raises RolloutError before a rollout begins whose probe has a wrong address."""
        address = self.settings.address
        if address is None or not self.settings.probe or state.phase != "loading":
            return
        with connect(address, timeout=SECONDS) as client:
            try:
                client.metadata(state.model, label=STABLE)
            except ServingError as error:
                # A server that is busy is there.
                if is_busy(error):
                    return
                raise RolloutError(f"rollout.address {address}: {error.code}: {error.text}; {_PROBE_HELP}") from None

    def _golden(self, model: str, version: int) -> Golden:
        try:
            return read_golden(self.fleet.model_folder(model) / str(version))
        except GoldenError as error:
            raise GateError(str(error)) from None

    def _sent(self, model: str, side: Side) -> Golden:
        """What the probe sends: golden requests of a side's version, and captured ones where there are some.

        While two versions are compared, those of the old one: clients go on to send what they sent before.
        """
        golden, file = self._golden(model, side.version), self.settings.shadow
        if not (file and self.settings.probe):
            return golden
        with connect(url(side.instances()[0])) as client:
            captured = captured_requests(file, model, client, self.settings.shadow_requests)
        return replace(golden, requests=(*golden.requests, *(one.request for one in captured)))

    def _everywhere(self, target: Target, serve: Serve, pause: Pause, *, keep: bool = True) -> None:
        """Has every server serve this, those too that start meanwhile, and, with `keep`, when they start again."""
        if keep:
            target.keep(serve)
        done: set[str] = set()
        while new := [instance for instance in target.instances() if instance.name not in done]:
            for instance in new:
                self._one(instance, serve, pause, keep=keep)
                done.add(instance.name)

    def _one(self, instance: Instance, serve: Serve, pause: Pause, *, keep: bool = True) -> None:
        """Has one server serve this, step by step, and waits until it does.

        Raises GateError when a version fails to load or time runs out.
        """
        deadline = time.monotonic() + self.wait
        with connect(url(instance), timeout=5) as client:
            before = self._patiently(instance, lambda: serves.now(client, serve), deadline, pause)
            # The last step changes nothing where it serves all of it. It may have to begin with it another time.
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
        self._patiently(instance, lambda: instance.tell(serve, keep=keep), deadline, pause)
        try:
            while said := self._patiently(
                instance, lambda: missing(client, serve.served, earlier, before), deadline, pause
            ):
                if time.monotonic() > deadline:
                    raise GateError(f"{instance.name}: {said} after {self.wait:g} s")
                pause(_POLL_SECONDS)
        except EngineError as error:
            raise GateError(str(error)) from None

    def _patiently(self, instance: Instance, call: Callable[[], Result], deadline: float, pause: Pause) -> Result:
        """What `call` returns, once the server isn't busy. Raises ServingError."""
        reported = False
        while True:
            try:
                return call()
            except ServingError as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
                if not reported:
                    reported = True
                    self.say(f"  {instance.name} is busy, trying again: {error.code}: {error.text}")
            pause(_POLL_SECONDS)

    def _saw(self, figure: Figure) -> None:
        """Keeps what a gate saw. What stops the rollout is reported as its reason."""
        self._figures.append(figure)
        if figure.passed:
            self.say(f"  {figure}")


@dataclass
class Before:
    """What came of requests to the old version before."""

    clients: Sample = field(default_factory=Sample)
    probe: Sample = field(default_factory=Sample)
    address: Sample = field(default_factory=Sample)

    def add(self, seen: Sequence[Seen], through: Sample) -> None:
        """Counts what came of more."""
        for one in seen:
            self.clients.add(one.clients)
            self.probe.add(one.probe)
        self.address.add(through)

    @classmethod
    def of(cls, state: State) -> Before:
        """As the figures of the phase `stable` have it."""
        found = cls()
        for figure in state.figures:
            # The numbers of a long rollout may have been left out.
            if figure.phase == "stable" and figure.gate in found.__dict__ and "failures" in figure.numbers:
                old = figure.numbers["failures"]["old"]
                failed = Counter[str](old["failures"])
                sample = Sample(old["requests"] - failed.total(), failed=failed)
                if figure.gate == "address":
                    # The same for each weight.
                    found.address = sample
                else:
                    getattr(found, figure.gate).add(sample)
        return found
