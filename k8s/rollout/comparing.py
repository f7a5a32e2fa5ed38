"""The gates of a rollout: verify the new version, and compare it with the old one, also under load."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace

from tfserving.clients import connect
from tfserving.foundation.golden import Golden, GoldenError, read_golden
from tfserving.k8s.at_once import Pause, each
from tfserving.k8s.rollout import gates
from tfserving.k8s.rollout.drift import drift
from tfserving.k8s.rollout.evaluation import evaluate
from tfserving.k8s.rollout.judge import Comparison, Verdict
from tfserving.k8s.rollout.progress import Log
from tfserving.k8s.rollout.quality import require
from tfserving.k8s.rollout.remaining import about
from tfserving.k8s.rollout.sample import Sample
from tfserving.k8s.rollout.shadow import captured_requests, shadow
from tfserving.k8s.rollout.state import Figure, Gate, State
from tfserving.k8s.rollout.target import GateError, Instance, Reached, Target, url
from tfserving.k8s.rollout.watch import Seen, Side, Watch
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.rollout import Rollout

PROBE_HELP = "Set `rollout.address` to where clients send requests, or `rollout.probe: 0` to turn the probe off."
# If requests of clients would need longer than this for a clear result, those of the probe decide.
_PATIENCE_SECONDS = 120.0
_MOMENT_SECONDS = 1.0
# The origin of the requests.
_OF: dict[Gate, str] = {"clients": "clients", "probe": "probe", "address": "through the address"}


@dataclass
class Comparing:
    """Runs the gates, and records their measurements. A server may take `wait` seconds for a change."""

    fleet: Fleet
    wait: float
    log: Log
    _figures: list[Figure] = field(init=False, default_factory=list)

    @property
    def settings(self) -> Rollout:
        """The limits of the gates."""
        return self.fleet.rollout

    def _proven(self, state: State, instances: Sequence[Instance], name: str, pause: Pause) -> None:
        folder = self.fleet.model_folder(state.model) / str(state.new)

        def proven(instance: Instance, _: Pause) -> Figure:
            return gates.golden(Reached(instance, name, state.new), folder)

        for figure in each(instances, proven, pause):
            self._saw(figure)

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
        self._proven(state, target.instances(), state.model, pause)

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
                raise GateError(f"all requests of the probe to version {state.old}{where} fail: {sample}. {PROBE_HELP}")
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
