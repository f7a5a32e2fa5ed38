"""The same requests to two served versions: what each answers, and how long it takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tfserving.clients import Client, connect
from tfserving.clients.busy import Patient
from tfserving.clients.errors import ServingError
from tfserving.clients.golden import golden_outputs
from tfserving.clients.inputs import mismatches
from tfserving.clients.printable import printable
from tfserving.clients.results import Signature
from tfserving.foundation.golden import GoldenRequest, Method
from tfserving.foundation.tensors import Array
from tfserving.k8s.rollout.target import GateError, Reached, url

SECONDS = 10.0
_MOMENT_SECONDS = 1.0
_MOST_TEXT = 200
_METHODS: Mapping[str, Method] = {
    "tensorflow/serving/predict": "predict",
    "tensorflow/serving/classify": "classify",
    "tensorflow/serving/regress": "regress",
}


class Clock:
    """The time that there is, in which `pause` is called every second."""

    def __init__(self, seconds: float, pause: Callable[[float], None]) -> None:
        self._paused = time.monotonic()
        self._deadline, self._pause = self._paused + seconds, pause

    def is_over(self) -> bool:
        """Whether no time is left."""
        if (now := time.monotonic()) - self._paused > _MOMENT_SECONDS:
            self._paused = now
            self._pause(0)
        return now > self._deadline


@dataclass(frozen=True)
class Answer:
    """What came of a request to one version: its outputs, or why it failed, and how many seconds that took."""

    outputs: Mapping[str, Array] = field(default_factory=dict)
    failure: str = ""
    seconds: float = 0.0


class Asked:
    """A served version, to which requests are sent one after the other. A busy server is waited for."""

    def __init__(self, reached: Reached, server: Patient) -> None:
        """Raises GateError when the version isn't there."""
        self.reached = reached
        self._server = server
        try:
            self.signatures: Mapping[str, Signature] = server.call(
                lambda seconds: server.client.metadata(reached.name, version=reached.version, timeout=seconds), SECONDS
            ).signatures
        except ServingError as error:
            raise GateError(f"{self}: {_reason(error)}") from None

    def __str__(self) -> str:
        return f"{self.reached.instance.name}: version {self.reached.version}"

    @property
    def client(self) -> Client:
        """The client of its server."""
        return self._server.client

    def method(self, signature: str) -> Method:
        """How a signature is asked."""
        return _METHODS.get(self.signatures[signature].method, "predict")

    def misfit(self, request: GoldenRequest) -> str:
        """Why the version doesn't take a request by its signatures; '' when it does."""
        signature = self.signatures.get(request.signature)
        if signature is None:
            return f"it has no signature {request.signature!r}"
        if self.method(request.signature) != request.method:
            return f"its signature {request.signature!r} is not there to {request.method}"
        if request.method != "predict":
            return ""
        return next(iter(mismatches(dict(request.inputs), request.signature, signature)), "")

    def send(self, request: GoldenRequest, defaults: Mapping[str, Array] | None = None) -> Answer:
        """What the version answers; `defaults` are those of inputs that the request leaves out."""
        started = time.monotonic()

        def sent(seconds: float) -> Mapping[str, Array]:
            nonlocal started
            # The time that is waited for a busy server is not the version's.
            started = time.monotonic()
            name, version = self.reached.name, self.reached.version
            return golden_outputs(
                self._server.client, name, request, version=version, defaults=defaults, timeout=seconds
            )

        try:
            outputs = self._server.call(sent, SECONDS)
        except ServingError as error:
            return Answer(failure=_reason(error), seconds=time.monotonic() - started)
        return Answer(outputs, seconds=time.monotonic() - started)


@dataclass
class Pair:
    """Two served versions that get the same requests, in turns."""

    old: Asked
    new: Asked
    _turn: int = 0

    def takes(self, request: GoldenRequest) -> bool:
        """Whether both take a request by their signatures."""
        return not self.old.misfit(request) and not self.new.misfit(request)

    def send(self, request: GoldenRequest, defaults: Mapping[str, Array] | None = None) -> tuple[Answer, Answer]:
        """What the old one answers, and the new one. Neither is always the first."""
        self._turn += 1
        if self._turn % 2:
            return self.old.send(request, defaults), self.new.send(request, defaults)
        new = self.new.send(request, defaults)
        return self.old.send(request, defaults), new


@contextlib.contextmanager
def paired(old: Reached, new: Reached) -> Iterator[Pair]:
    """Clients of both versions. Raises GateError when one isn't there."""
    with connect(url(old.instance), timeout=SECONDS) as older, connect(url(new.instance), timeout=SECONDS) as newer:
        yield Pair(Asked(old, Patient(older)), Asked(new, Patient(newer)))


def _reason(error: ServingError) -> str:
    return f"{error.code}: {printable(error.text, _MOST_TEXT)}"
