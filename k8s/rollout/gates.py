"""Gates that a new version must pass before it gets requests: golden requests, latency, commands."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tfserving.clients import connect
from tfserving.clients.busy import Patient
from tfserving.clients.errors import ServingError
from tfserving.clients.golden import send
from tfserving.clients.metrics import PATH, Page, read_metrics
from tfserving.clients.printable import printable
from tfserving.clients.verification.verify import Settings, verify
from tfserving.foundation import programs
from tfserving.foundation.golden import Golden, GoldenError, GoldenRequest
from tfserving.k8s.rollout.judge import Comparison
from tfserving.k8s.rollout.sample import Sample
from tfserving.k8s.rollout.state import Figure, State
from tfserving.k8s.rollout.target import GateError, Instance, Reached, url
from tfserving.serving.models_yaml.rollout import Rollout

# After this many rounds of golden requests, the estimate decides an unclear comparison.
ROUNDS = 300
# Of many servers, that many pairs are compared: each needs several rounds.
MOST_PAIRS = 16
_REQUEST_SECONDS = 10.0
# Limits for the output of a command, of which the last line is kept.
_MOST_PRINTED, _LONGEST_LINE = 1 << 16, 500


def golden(reached: Reached, folder: Path) -> Figure:
    """Send all golden requests of the version in `folder` to a server, over both protocols; return the figure.

    The tolerances are those of the version for the server's kind of device. Raises GateError when an output differs
    from what the model computed in process.
    """
    instance, model = reached.instance, folder.parent.name
    settings = Settings(ways=("alone", "batch"), served_as={model: reached.name}, fleet_device=instance.device)
    try:
        report = verify([folder], grpc=instance.grpc, rest=instance.rest, settings=settings)
    except (GoldenError, ServingError, ValueError) as error:
        raise GateError(f"{instance.name}: cannot send the golden requests: {error}") from None
    text = f"{instance.name}: {'; '.join([report.sentence(), *map(str, report.busy)])}"
    wrong = sum(not row.ok for row in report.rows)
    numbers = {"requests": report.requests, "comparisons": len(report.rows), "failed": wrong}
    figure = Figure("golden", text, report.ok, instance.name, numbers)
    if not report.ok:
        raise GateError(text, figure)
    return figure


def latency(
    pairs: Sequence[tuple[Reached, Reached]], golden: Golden, settings: Rollout, pause: Callable[[float], None]
) -> Figure:
    """Send `golden` alternately to an old and a new version, on each pair of servers, and compare the latencies.

    Both servers of a pair are the same one or of the same kind. Of more than MOST_PAIRS pairs, some are compared. The
    comparison ends when the result is clear. After `settings.longest` seconds the estimate decides. Raises GateError
    when the new version is too slow, or fails more often.
    """
    pairs = pairs[:: math.ceil(len(pairs) / MOST_PAIRS)]
    # No minimum duration: clients don't get the new version yet.
    at_once = settings.model_copy(update={"window": 0.0})
    comparison = Comparison(at_once, f"version {pairs[0][1].version}", f"version {pairs[0][0].version}")
    started = time.monotonic()
    where = ", ".join(dict.fromkeys(new.instance.name for _, new in pairs))
    with contextlib.ExitStack() as stack:
        clients = [tuple(Patient(stack.enter_context(connect(url(one.instance)))) for one in pair) for pair in pairs]
        for number in range(ROUNDS):
            turn = number % len(pairs)
            found = [Sample(), Sample()]
            # The first one alternates.
            for side in (0, 1) if number // len(pairs) % 2 else (1, 0):
                found[side] = _round(clients[turn][side], pairs[turn][side], golden)
            if number >= len(pairs):
                # The first round is left out: a server is slow at first.
                comparison.add(found[1], found[0], time.monotonic() - started)
            # Failure rates are decided later, under load.
            if comparison.verdict().decision == "worse" or comparison.latency != "open":
                break
            if time.monotonic() - started > settings.longest:
                break
            pause(0)
        busy = [str(client.refusals) for pair in clients for client in pair if client.refusals]
    verdict = comparison.last()
    text = "; ".join([f"{where}: latency: {comparison}", *busy])
    figure = Figure("latency", text, verdict.decision != "worse", where, dict(comparison.numbers()))
    if verdict.decision == "worse":
        raise GateError(f"{where}: latency: {verdict.reason}", figure)
    return figure


def _round(server: Patient, reached: Reached, golden: Golden) -> Sample:
    """Send each golden request once, one after the other. The time to wait for a busy server isn't counted."""
    times: list[float] = []
    failures: Counter[str] = Counter()

    def timed(request: GoldenRequest, seconds: float) -> float:
        started = time.perf_counter()
        defaults = golden.defaults.get(request.signature)
        send(server.client, reached.name, request, version=reached.version, defaults=defaults, timeout=seconds)
        return time.perf_counter() - started

    for request in golden.requests:
        try:
            times.append(server.call(functools.partial(timed, request), _REQUEST_SECONDS))
        except ServingError as error:
            failures[f"{error.code}: {printable(error.text, _LONGEST_LINE)}"] += 1
    return Sample.of_seconds(times, failures)


def page(instance: Instance, model: str) -> Page:
    """Read a server's metrics page. Raises GateError when it has none."""
    where = f"http://{instance.rest}{PATH}"
    try:
        return read_metrics(where, model)
    except ServingError as error:
        raise GateError(
            f"{instance.name}: no metrics page at {where}: {error.text}. Turn it on with `server.monitoring`."
        ) from None


def command(words: Sequence[str], state: State, settings: Rollout) -> Figure:
    """Run a command of the user as a gate; it passes with exit code 0. Raises GateError with its last line.

    After `settings.command_seconds` it is killed, with all processes that it started.
    """
    variables: Mapping[str, str] = {
        "ROLLOUT_MODEL": state.model,
        "ROLLOUT_VERSION": str(state.new),
        "ROLLOUT_FROM": str(state.old),
        "ROLLOUT_PHASE": state.phase,
    }
    try:
        done = programs.run(words, settings.command_seconds, env={**os.environ, **variables}, most=_MOST_PRINTED)
    except (OSError, ValueError) as error:
        raise GateError(f"cannot run {words[0]}: {getattr(error, 'strerror', None) or error}") from None
    except programs.OverTimeError:
        raise GateError(
            f"{' '.join(words)} did not end within {settings.command_seconds:g} s and was killed. "
            "Raise `rollout.command_seconds`."
        ) from None
    last = next(iter((done.stderr or done.stdout).strip().splitlines()[-1:]), "")[:_LONGEST_LINE]
    text = f"{' '.join(words)} failed with exit code {done.code}: {last}" if done.code else f"{' '.join(words)} passed"
    figure = Figure("command", text, not done.code, numbers={"exit_code": done.code, "printed": last})
    if done.code:
        raise GateError(text, figure)
    return replace(figure, text=f"{text}: {last}") if last else figure
