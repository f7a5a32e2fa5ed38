"""What a new version must pass: golden requests, latency beside the old version, metrics under real load, commands."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tfserving.clients import connect
from tfserving.clients.busy import Patient
from tfserving.clients.errors import ServingError
from tfserving.clients.golden import ask
from tfserving.clients.metrics import PATH, Page, read_metrics
from tfserving.clients.verification.verify import Settings, verify
from tfserving.foundation import programs
from tfserving.foundation.golden import GoldenError, GoldenRequest, read_golden
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import GateError, Instance, url
from tfserving.serving.models_yaml.rollout import Rollout

# The latency of one request says little; these many, alternating between the versions, say which is slower.
ROUNDS = 30
_ASK_SECONDS = 10.0
# Of what a command prints its last line is kept.
_MOST_PRINTED, _LONGEST_LINE = 1 << 16, 500


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
            server = Patient(stack.enter_context(connect(url(instance))))
            asked.append((server, folder, read_golden(folder).requests))
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


def page(instance: Instance, model: str) -> Page:
    """What a server's metrics page says now. Raises GateError when it has none."""
    where = f"http://{instance.rest}{PATH}"
    try:
        return read_metrics(where, model)
    except ServingError as error:
        raise GateError(
            f"{instance.name}: no metrics at {where}: {error.text}; `server.monitoring` turns them on"
        ) from None


class Figures(Protocol):
    """What came of requests: a metrics page's, or a probe's."""

    @property
    def total(self) -> int:
        """All requests."""

    @property
    def error_rate(self) -> float:
        """The part of them that failed."""

    def p99_ms(self) -> float:
        """The latency that 99 % of those that succeeded don't exceed; 0 when there are none."""


def compare(new: Figures, old: Figures, settings: Rollout, whose: str = "") -> str:
    """Compares what came of requests to the new version with what came of those to the old one. Raises GateError.

    `whose` is set in front of the figures. The latency of too few requests is no measure.
    """
    said = f"{whose}with the new version {new}; with the old one {old}"
    if new.error_rate > old.error_rate + settings.error_rate:
        raise GateError(f"{said}: {100 * settings.error_rate:g} % more failures are allowed")
    fast, slow = old.p99_ms(), new.p99_ms()
    if fast and old.total >= settings.samples and _is_slower(slow, fast, settings):
        raise GateError(f"{said}: {settings.latency:g} times the p99 is allowed")
    return said


def allowed(seen: Figures, settings: Rollout, whose: str = "") -> str:
    """What came of requests when there is nothing to compare it with. Raises GateError when too many failed."""
    said = f"{whose}{seen}"
    if seen.error_rate > settings.error_rate:
        raise GateError(f"{said}: {100 * settings.error_rate:g} % are allowed")
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
    count: Callable[[], int], settings: Rollout, wait: Callable[[float], None], say: Callable[[str], None]
) -> None:
    """Waits for a window of time with enough requests of clients in it.

    `count` returns how many have come since the window began, `wait` lets so many seconds pass. Raises GateError when
    there aren't enough requests in the longest time.
    """
    started, told = time.monotonic(), 0.0
    while True:
        wait(min(1.0, settings.window))
        found, passed = count(), time.monotonic() - started
        if passed >= settings.window and found >= settings.samples:
            return
        if passed > settings.longest:
            raise GateError(f"only {found} of {settings.samples} requests came in {settings.longest:g} s")
        if passed >= settings.window and passed - told >= settings.window:
            told = passed
            say(f"waiting: {found} of {settings.samples} requests")
