"""The client of a model server: the same calls over gRPC and REST.

with connect("grpc://127.0.0.1:8500") as client:
    client.predict("digits", {"image": images}).outputs["label"]
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol

from tfserving.clients.address import Address, Tls, read_address
from tfserving.clients.answers import Classification, Metadata, Prediction, Regression, VersionStatus
from tfserving.clients.asked import DEFAULT_SIGNATURE
from tfserving.clients.calls import Calls, Task
from tfserving.clients.errors import ServingError
from tfserving.clients.inputs import Inputs
from tfserving.clients.limits import MAX_RESPONSE_BYTES
from tfserving.clients.steps import Ask, Pause, Result, Retries, Steps
from tfserving.foundation.examples import ExampleLike

DEFAULT_TIMEOUT = 10.0
Compression = Literal["gzip"]


class Transport(Protocol):
    """How questions reach the server, and answers come back."""

    def ask(self, ask: Ask) -> bytes:
        """The answer to `ask`. Raises a ServingError."""

    def close(self) -> None:
        """Closes the connections."""


def connect(
    url: str,
    *,
    tls: Tls | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    retries: Retries | None = None,
    compression: Compression | None = None,
    metadata: Mapping[str, str] | None = None,
    max_response_bytes: int = MAX_RESPONSE_BYTES,
) -> Client:
    """A client for the server at `url`.

    `grpc://HOST[:PORT]` and `http://HOST[:PORT][/PREFIX]`, with TLS `grpcs://` and `https://`; the ports are 8500 and
    8501 unless the URL says otherwise. `dns:///HOST[:PORT]` is gRPC to all addresses of a name in turn, `unix:///PATH`
    gRPC to a socket. Nothing is sent yet. No proxy of the environment is used: model servers are near.

    `tls` says whom to trust and who asks. `timeout` is that of calls which have none of their own, in seconds.
    `retries` says when an unavailable server is asked again, `Retries(attempts=1)` is never. With `compression="gzip"`
    requests are sent, and answers wanted, compressed. `metadata` goes along with every call: gRPC's metadata, or HTTP
    headers. A response of more than `max_response_bytes`, as received or inflated, raises ResourceExhausted.

    Raises ValueError for any other URL.
    """
    address = read_address(url, tls)
    calls = make_calls(address, retries, metadata, max_response_bytes)
    gzip = check_compression(compression)
    if address.protocol == "grpc":
        from tfserving.clients.grpc_transport import GrpcTransport

        return Client(calls, GrpcTransport(address, gzip=gzip, largest=max_response_bytes), timeout)
    from tfserving.clients.rest_transport import RestTransport

    return Client(calls, RestTransport(address, gzip=gzip, largest=max_response_bytes), timeout)


def make_calls(address: Address, retries: Retries | None, metadata: Mapping[str, str] | None, largest: int) -> Calls:
    """The calls to `address` over its protocol, whose answers have `largest` bytes. Raises ValueError for no limit."""
    if largest < 1:
        raise ValueError(f"max_response_bytes is a number of bytes above 0, not {largest!r}")
    if address.protocol == "grpc":
        from tfserving.clients.grpc_calls import GrpcCalls

        return GrpcCalls(address.target, retries or Retries(), metadata or {}, largest)
    from tfserving.clients.rest_calls import RestCalls

    return RestCalls(address.target, retries or Retries(), metadata or {}, largest)


def check_compression(compression: str | None) -> bool:
    """Whether messages are compressed. Raises ValueError for a way that there isn't."""
    if compression not in (None, "gzip"):
        raise ValueError(f"compression is 'gzip' or None, not {compression!r}")
    return compression is not None


class Client:
    """Calls to one model server, made by `connect`. Several threads can use it at once; a context manager closes it.

    Every method raises a `tfserving.clients.errors.ServingError`. A `timeout` is in seconds and covers the whole call,
    retries and questions for metadata included. `version` or `label` pins the version; without them the newest
    answers. `metadata` goes along with this call. With `check`, a call is refused before it is sent, with
    InvalidArgument, when it doesn't fit the signature, for which the server is asked once.
    """

    def __init__(self, calls: Calls, transport: Transport, timeout: float) -> None:
        self._calls = calls
        self._transport = transport
        self._timeout = timeout

    @property
    def protocol(self) -> str:
        """`grpc` or `rest`."""
        return self._calls.protocol

    @property
    def server(self) -> str:
        """The server's address."""
        return self._calls.server

    def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        outputs: Sequence[str] = (),
        check: bool = False,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Prediction:
        """The outputs of signature `signature` for `inputs`, or only those named in `outputs`.

        `inputs` is a mapping of input names to arrays, or a single array when the signature has one input. An array
        goes out with the element type it has; Python's lists and numbers take the type the signature wants, for which
        the server is asked its metadata once. Arrays in the answer may be read-only views of it.

        Raises InvalidArgument for inputs or outputs the signature doesn't take, FailedPrecondition for a signature, and
        NotFound for a model or a version, that isn't served.
        """
        asked = self._calls.asked(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return self._run(self._calls.predict(asked, inputs, outputs, check=check))

    def classify(
        self,
        model: str,
        examples: Iterable[ExampleLike],
        *,
        context: ExampleLike | None = None,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        check: bool = False,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Classification:
        """The classes of each of `examples`: dicts of features, `tf.train.Example`s, or their bytes.

        The features of `context` are in every example that doesn't have its own. Raises InvalidArgument for examples
        and signatures that can't be classified with, and NotFound for a model or a version that isn't served.
        """
        asked = self._calls.asked(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return self._run(self._calls.classify(asked, examples, context, check=check))

    def regress(
        self,
        model: str,
        examples: Iterable[ExampleLike],
        *,
        context: ExampleLike | None = None,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        check: bool = False,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Regression:
        """A value for each of `examples`, which are given, and refused, as those of `classify`."""
        asked = self._calls.asked(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return self._run(self._calls.regress(asked, examples, context, check=check))

    def multi_inference(
        self,
        model: str,
        tasks: Mapping[str, Task],
        examples: Iterable[ExampleLike],
        *,
        context: ExampleLike | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> dict[str, Classification | Regression]:
        """The answers of several signatures to the same `examples`, by signature; over gRPC alone.

        `tasks` says of each signature whether it shall `classify` or `regress`. Raises Unimplemented over REST.
        """
        asked = self._calls.asked(
            model, version=version, label=label, timeout=self._seconds(timeout), metadata=metadata
        )
        return self._run(self._calls.multi_inference(asked, tasks, examples, context))

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Metadata:
        """The signatures of `model`, of its newest version unless `version` or `label` says which."""
        asked = self._calls.asked(
            model, version=version, label=label, timeout=self._seconds(timeout), metadata=metadata
        )
        return self._run(self._calls.metadata(asked))

    def status(
        self,
        model: str,
        *,
        version: int | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[VersionStatus, ...]:
        """The versions of `model` that the server knows, newest first, also those it unloaded or failed to load.

        Raises NotFound when the server knows none, or not the one asked for.
        """
        asked = self._calls.asked(model, version=version, timeout=self._seconds(timeout), metadata=metadata)
        return self._run(self._calls.status(asked))

    def wait_until_available(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float = 60.0
    ) -> int:
        """Waits until `version`, or the version with `label`, can be asked, or any without them; returns its number.

        The server need not be up yet, nor know the model. Raises the error with which the version failed to load as
        soon as it did, and DeadlineExceeded with what was last seen when `timeout` passes first.
        """
        asked = self._calls.asked(model, version=version, label=label, timeout=timeout)
        return self._run(self._calls.wait_until_available(asked, timeout))

    def reload_config(
        self, config: Any, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Has the server serve what `config` says, and returns when it does; over gRPC alone.

        `config` is the text of a models.config, or a ModelServerConfig message. What it doesn't name is unloaded. It
        is never sent twice. The server answers when it has loaded all of it, so `timeout` covers that, too.

        Raises InvalidArgument or FailedPrecondition for a config the server refuses, which changes nothing, the error
        of a version that failed to load, and Unimplemented over REST.
        """
        asked = self._calls.asked(None, timeout=self._seconds(timeout), metadata=metadata)
        return self._run(self._calls.reload_config(asked, config))

    def close(self) -> None:
        """Closes the connections; calls in flight may fail."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    def _run(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._do(step)
                except ServingError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _do(self, step: Ask | Pause) -> bytes | None:
        if isinstance(step, Ask):
            return self._transport.ask(step)
        time.sleep(step.seconds)
        return None
