"""Replay captured requests to both versions before clients move; compare failures, latency and drift."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tfserving.clients import Client
from tfserving.clients.capture import CapturedRequest, CaptureError, read_requests, sampled
from tfserving.clients.errors import ServingError
from tfserving.foundation.quality import LARGEST_BYTES
from tfserving.k8s.rollout.drift import Moved
from tfserving.k8s.rollout.judge import Comparison
from tfserving.k8s.rollout.pairs import Clock, Response, paired
from tfserving.k8s.rollout.sample import Sample
from tfserving.k8s.rollout.state import Figure
from tfserving.k8s.rollout.target import GateError, Reached
from tfserving.k8s.rollout.tolerances import between
from tfserving.serving.models_yaml.fleet import Fleet

# Pairs of requests in a block of a comparison.
_BLOCK = 5


def shadow(fleet: Fleet, model: str, old: Reached, new: Reached, pause: Callable[[float], None]) -> list[Figure]:
    """Replay the captured requests of `rollout.shadow` to both versions alternately; return [] without a file.

    At most `rollout.shadow_requests` are drawn at random, always the same ones, and sent for at most `rollout.longest`
    seconds. A request that doesn't match the signatures of one version is skipped. One figure compares failures and
    latency, as for requests of clients; the other one drift. `pause` is called every second. Raises GateError when the
    file can't be read, or no request matches both versions.
    """
    settings = fleet.rollout
    if settings.shadow is None:
        return []
    # No minimum duration: the comparison ends when all requests are sent.
    comparison = Comparison(
        settings.model_copy(update={"window": 0.0}), f"version {new.version}", f"version {old.version}"
    )
    block = _Block(comparison)
    with paired(old, new) as pair:
        moved = Moved(tolerances=between(fleet, model, pair))
        requests = captured_requests(settings.shadow, model, pair.old.client, settings.shadow_requests)
        started, clock = time.monotonic(), Clock(settings.longest, pause)
        for captured in requests:
            if clock.is_over() or comparison.verdict().decision == "worse":
                break
            if pair.takes(captured.request):
                responses = pair.send(captured.request)
                moved.add(captured.request.signature, *responses)
                block.add(*responses, at=time.monotonic() - started)
            else:
                moved.left_out += 1
        block.end(time.monotonic() - started)
    if not block.sent:
        raise GateError(f"{settings.shadow}: none of its {len(requests)} requests to {model!r} matches both versions")
    verdict = comparison.last()
    compared = f"shadow, {block.sent} of {len(requests)} captured requests: "
    worse = verdict.decision == "worse"
    text = compared + (verdict.reason if worse else str(comparison))
    return [
        Figure("shadow", text, not worse, new.instance.name, dict(comparison.numbers())),
        moved.figure(settings.drift, new, of=f"{moved.compared} captured requests"),
    ]


class _Block:
    """Collects pairs of responses until they are a block of a comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self.sent = 0
        self._comparison = comparison
        self._old: list[Response] = []
        self._new: list[Response] = []

    def add(self, old: Response, new: Response, at: float) -> None:
        """Add the responses of both versions to a request."""
        self.sent += 1
        self._old.append(old)
        self._new.append(new)
        if len(self._old) == _BLOCK:
            self.end(at)

    def end(self, at: float) -> None:
        """Add the block to the comparison."""
        if self._old:
            self._comparison.add(_sample(self._new), _sample(self._old), at)
            self._old, self._new = [], []


def _sample(responses: list[Response]) -> Sample:
    times = [response.seconds for response in responses if not response.failure]
    return Sample.of_seconds(times, Counter(response.failure for response in responses if response.failure))


def captured_requests(file: Path, model: str, server: Client, most: int) -> list[CapturedRequest]:
    """Return at most `most` of the requests to `model` in a file. `server` has the types for JSON. Raises GateError."""
    try:
        if file.suffix in (".json", ".jsonl") and (size := file.stat().st_size) > LARGEST_BYTES:
            raise GateError(f"rollout.shadow: {file} is {size} bytes, and the limit is {LARGEST_BYTES}")
        found = sampled(read_requests(file, model, server, lambda _: None), most)
    except OSError as error:
        raise GateError(f"rollout.shadow: {file}: {error.strerror}") from None
    except (CaptureError, ServingError) as error:
        raise GateError(f"rollout.shadow: {error}") from None
    if not found:
        raise GateError(f"rollout.shadow: {file} has no request to {model!r}")
    return [replace(one, version=None) for one in found]
