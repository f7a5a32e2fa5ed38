"""What a new version must pass: golden requests, latency beside the old version, metrics under real load, commands."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfserving.clients import connect
from tfserving.clients.bench.metrics import PATH
from tfserving.clients.busy import Patient
from tfserving.clients.errors import ServingError
from tfserving.clients.golden import ask
from tfserving.clients.page import read_page
from tfserving.clients.verification.verify import Settings, verify
from tfserving.foundation import programs
from tfserving.foundation.golden import GoldenError, GoldenRequest, read_golden
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import GateError, Instance
from tfserving.serving.models_yaml.rollout import Rollout

# The latency of one request says little; these many, alternating between the versions, say which is slower.
ROUNDS = 30
_ASK_SECONDS = 10.0
# Of what a command prints its last line is kept.
_MOST_PRINTED, _LONGEST_LINE = 1 << 16, 500
_COUNT = re.compile(r"^:tensorflow:serving:request_count\{(.*)\} ([0-9.e+]+)$", re.M)
_BUCKET = re.compile(r'^:tensorflow:serving:request_latency_bucket\{(.*),le="([^"]+)"\} ([0-9.e+]+)$', re.M)


def golden(instance: Instance, folder: Path) -> str:
    """Asks one server all golden requests of the version in `folder`, over each protocol; returns what came of it.

    Raises GateError for the first answer that isn't what the model answered in process.
    """
    try:
        report = verify([folder], grpc=instance.grpc, rest=instance.rest, settings=Settings(ways=("alone", "batch")))
    except (GoldenError, ServingError, ValueError) as error:
        raise GateError(f"{instance.name}: its golden requests can't be asked: {error}") from None
    said = "; ".join([report.sentence(), *map(str, report.busy)])
    if not report.ok:
        raise GateError(f"{instance.name}: {said}")
    return f"{instance.name}: {said}"


def latency(model: str, old: tuple[Instance, Path], new: tuple[Instance, Path], settings: Rollout) -> str:
    """Asks a server of each version, which may be the same, its golden requests in turns, and compares the medians.

    Golden requests are asked by version, so this also tells versions apart in a server whose metrics don't. Raises
    GateError when the new one takes more than `settings.latency` times as long, and `settings.slack_ms` more.
    """
    found: dict[Path, list[float]] = {}
    with contextlib.ExitStack() as stack:
        asked = []
        for instance, folder in (old, new):
            url = f"http://{instance.rest}" if instance.grpc is None else f"grpc://{instance.grpc}"
            asked.append((Patient(stack.enter_context(connect(url))), folder, read_golden(folder).requests))
        for _ in range(ROUNDS):
            for server, folder, requests in asked:
                found.setdefault(folder, []).append(_seconds(server, model, folder, requests))
    fast, slow = (1000 * statistics.median(found[folder]) for _, folder in (old, new))
    said = f"{new[0].name}: golden requests take {slow:.1f} ms, those of version {old[1].name} {fast:.1f} ms"
    said = "; ".join([said, *(str(server.refusals) for server, *_ in asked if server.refusals)])
    if _is_slower(slow, fast, settings):
        raise GateError(f"{said}: more than {settings.latency:g} times as long")
    return said


def _is_slower(new: float, old: float, settings: Rollout) -> bool:
    """Whether so many milliseconds are more than may be where there were so many."""
    return new > settings.latency * old and new > old + settings.slack_ms


def _seconds(server: Patient, model: str, folder: Path, requests: Sequence[GoldenRequest]) -> float:
    """The mean time of the golden requests, one after the other, without the time that is waited for a busy server."""

    def timed(request: GoldenRequest, seconds: float) -> float:
        started = time.perf_counter()
        ask(server.client, model, request, version=int(folder.name), timeout=seconds)
        return time.perf_counter() - started

    times = [server.call(functools.partial(timed, request), _ASK_SECONDS) for request in requests]
    return statistics.fmean(times)


@dataclass
class Page:
    """What one server's metrics page has counted for a model: requests by status, and by the bucket of their latency.

    Buckets are upper bounds in microseconds, and count all below; TensorFlow Serving's grow by 1.8 from 10.
    """

    requests: Counter[str] = field(default_factory=Counter)
    buckets: Counter[float] = field(default_factory=Counter)

    def since(self, before: Page) -> Page:
        """What was counted after `before`; all of it when the server has started anew in the meantime."""
        if any(self.requests[status] < count for status, count in before.requests.items()):
            return self
        requests = Counter({status: count - before.requests[status] for status, count in self.requests.items()})
        return Page(requests, Counter({le: count - before.buckets[le] for le, count in self.buckets.items()}))

    def add(self, other: Page) -> None:
        """Counts what another server has counted, too."""
        self.requests.update(other.requests)
        self.buckets.update(other.buckets)

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())

    @property
    def error_rate(self) -> float:
        """The part of the requests that failed."""
        return 1 - self.requests["OK"] / self.total if self.total else 0.0

    def p99_ms(self) -> float:
        """The latency that 99 % don't exceed, in milliseconds, interpolated within its bucket; 0 without requests."""
        bounds = sorted(self.buckets)
        wanted = 0.99 * max(self.buckets.values(), default=0)
        below, low = 0, 0.0
        for bound in bounds:
            count = self.buckets[bound]
            if count >= wanted and count > below:
                top = bound if bound != float("inf") else low
                return (low + (top - low) * (wanted - below) / (count - below)) / 1000
            below, low = count, bound
        return 0.0

    def __str__(self) -> str:
        return f"{self.total} requests, {100 * self.error_rate:.2f} % failed, p99 {self.p99_ms():.1f} ms"


def page(instance: Instance, model: str) -> Page:
    """What a server's metrics page says now. Raises GateError when it has none."""
    url = f"http://{instance.rest}{PATH}"
    try:
        text = read_page(url)
    except ServingError as error:
        raise GateError(
            f"{instance.name}: no metrics at {url}: {error.text}; `server.monitoring` turns them on"
        ) from None
    found = Page()
    # The first label. On the page of TensorFlow Serving, a name that a client sent can look like further labels.
    name = f'model_name="{model}",'
    for labels, value in _COUNT.findall(text):
        if labels.startswith(name) and (status := re.search(r'status="([^"]*)"', labels)):
            found.requests[status[1]] += round(float(value))
    for labels, bound, value in _BUCKET.findall(text):
        if labels.startswith(name):
            found.buckets[float(bound.replace("+Inf", "inf"))] += round(float(value))
    return found


def compare(new: Page, old: Page, settings: Rollout) -> str:
    """Compares what was counted with the new version with what was counted with the old one. Raises GateError.

    The latency of too few requests is no measure.
    """
    said = f"with the new version {new}; with the old one {old}"
    if new.error_rate > old.error_rate + settings.error_rate:
        raise GateError(f"{said}: {100 * settings.error_rate:g} % more failures are allowed")
    fast, slow = old.p99_ms(), new.p99_ms()
    if fast and old.total >= settings.samples and _is_slower(slow, fast, settings):
        raise GateError(f"{said}: {settings.latency:g} times the p99 is allowed")
    return said


def command(words: Sequence[str], state: State, settings: Rollout) -> str:
    """Runs a gate of the user's own, which passes when it exits with 0. Raises GateError with its last line.

    One that takes longer than `settings.command_seconds` is ended, with all that it started.
    """
    told: Mapping[str, str] = {
        "ROLLOUT_MODEL": state.model,
        "ROLLOUT_VERSION": str(state.new),
        "ROLLOUT_FROM": str(state.old),
        "ROLLOUT_PHASE": state.phase,
    }
    try:
        done = programs.run(words, settings.command_seconds, env={**os.environ, **told}, most=_MOST_PRINTED)
    except (OSError, ValueError) as error:
        raise GateError(f"{words[0]} can't be run: {getattr(error, 'strerror', None) or error}") from None
    except programs.OverTimeError as error:
        raise GateError(f"{' '.join(words)}: {error}; `rollout.command_seconds` gives it more time") from None
    last = next(iter((done.stderr or done.stdout).strip().splitlines()[-1:]), "")[:_LONGEST_LINE]
    if done.code:
        raise GateError(f"{' '.join(words)} exits with {done.code}: {last}")
    return f"{' '.join(words)} passes" + (f": {last}" if last else "")


def window(
    pages: Callable[[], Page], settings: Rollout, wait: Callable[[float], None], say: Callable[[str], None]
) -> Page:
    """What is counted in a window of time with enough requests in it.

    `pages` reads what has been counted, `wait` lets so many seconds pass. Raises GateError when there aren't enough
    requests in the longest time.
    """
    before, started, told = pages(), time.monotonic(), 0.0
    while True:
        wait(min(1.0, settings.window))
        found, passed = pages().since(before), time.monotonic() - started
        if passed >= settings.window and found.total >= settings.samples:
            return found
        if passed > settings.longest:
            raise GateError(f"only {found.total} of {settings.samples} requests came in {settings.longest:g} s")
        if passed >= settings.window and passed - told >= settings.window:
            told = passed
            say(f"waiting: {found.total} of {settings.samples} requests")
