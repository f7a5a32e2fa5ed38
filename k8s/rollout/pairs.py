"""Send the same requests to two served versions; compare their responses and times."""

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
from tfserving.foundation.devices import DEVICES, Device
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
    """A time limit. `pause` is called every second."""

    def __init__(self, seconds: float, pause: Callable[[float], None]) -> None:
        self.seconds = seconds
        self._paused = time.monotonic()
        self._deadline, self._pause = self._paused + seconds, pause

    def is_over(self) -> bool:
        """Return whether the time is up."""
        if (now := time.monotonic()) - self._paused > _MOMENT_SECONDS:
            self._paused = now
            self._pause(0)
        return now > self._deadline


@dataclass(frozen=True)
class Response:
    """The response of one version: outputs, or the reason of the failure, and the seconds it took."""

    outputs: Mapping[str, Array] = field(default_factory=dict)
    failure: str = ""
    seconds: float = 0.0


class ServedVersion:
    """A served version that gets one request after the other. Requests to a busy server are repeated."""

    def __init__(self, reached: Reached, server: Patient) -> None:
        """Raises GateError when the version isn't served."""
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
        """The client of the server."""
        return self._server.client

    @property
    def device(self) -> Device:
        """The kind of device: the one that the server names, else that of its settings. Raises GateError."""
        name, version = self.reached.name, self.reached.version
        try:
            statuses = self._server.call(
                lambda seconds: self.client.status(name, version=version, timeout=seconds), SECONDS
            )
        except ServingError as error:
            raise GateError(f"{self}: {_reason(error)}") from None
        named = [one for one in DEVICES if statuses and one == statuses[0].device]
        return named[0] if named else self.reached.instance.device or "cpu"

    def method(self, signature: str) -> Method:
        """Return the method of a signature: predict, classify or regress."""
        return _METHODS.get(self.signatures[signature].method, "predict")

    def misfit(self, request: GoldenRequest) -> str:
        """Return why a request doesn't match the signatures of the version; '' when it does."""
        signature = self.signatures.get(request.signature)
        if signature is None:
            return f"it has no signature {request.signature!r}"
        if (method := self.method(request.signature)) != request.method:
            return f"signature {request.signature!r}: got method {method}, expected {request.method}"
        if request.method != "predict":
            return ""
        return next(iter(mismatches(dict(request.inputs), request.signature, signature)), "")

    def send(self, request: GoldenRequest, defaults: Mapping[str, Array] | None = None) -> Response:
        """Send a request; return the response. `defaults` are the values of inputs that the request leaves out."""
        started = time.monotonic()

        def sent(seconds: float) -> Mapping[str, Array]:
            nonlocal started
            # Waiting for a busy server doesn't count.
            started = time.monotonic()
            name, version = self.reached.name, self.reached.version
            return golden_outputs(
                self._server.client, name, request, version=version, defaults=defaults, timeout=seconds
            )

        try:
            outputs = self._server.call(sent, SECONDS)
        except ServingError as error:
            return Response(failure=_reason(error), seconds=time.monotonic() - started)
        return Response(outputs, seconds=time.monotonic() - started)


@dataclass
class Pair:
    """Two served versions that get the same requests alternately."""

    old: ServedVersion
    new: ServedVersion
    _turn: int = 0

    def takes(self, request: GoldenRequest) -> bool:
        """Return whether a request matches the signatures of both."""
        return not self.old.misfit(request) and not self.new.misfit(request)

    def send(self, request: GoldenRequest, defaults: Mapping[str, Array] | None = None) -> tuple[Response, Response]:
        """Send a request to both; return the responses of the old and the new version. The first one alternates."""
        self._turn += 1
        if self._turn % 2:
            return self.old.send(request, defaults), self.new.send(request, defaults)
        new = self.new.send(request, defaults)
        return self.old.send(request, defaults), new


@contextlib.contextmanager
def paired(old: Reached, new: Reached) -> Iterator[Pair]:
    """Connect to both versions. Raises GateError when one isn't served."""
    with connect(url(old.instance), timeout=SECONDS) as older, connect(url(new.instance), timeout=SECONDS) as newer:
        yield Pair(ServedVersion(old, Patient(older)), ServedVersion(new, Patient(newer)))


def _reason(error: ServingError) -> str:
    return f"{error.code}: {printable(error.text, _MOST_TEXT)}"
