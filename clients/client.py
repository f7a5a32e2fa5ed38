"""The client of a model server. The calls are the same over gRPC and REST.

with connect("grpc://127.0.0.1:8500") as client:
    client.predict("digits", {"image": images}).outputs["label"]
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol

from tfserving.clients.address import Address, Tls, read_address
from tfserving.clients.call_options import DEFAULT_SIGNATURE
from tfserving.clients.calls import Calls, Task
from tfserving.clients.errors import ServingError
from tfserving.clients.inputs import Inputs
from tfserving.clients.limits import MAX_RESPONSE_BYTES
from tfserving.clients.results import Classification, Metadata, Prediction, Regression, VersionStatus
from tfserving.clients.steps import Pause, Request, Result, Retries, Steps
from tfserving.foundation.examples import ExampleLike

DEFAULT_TIMEOUT = 10.0
Compression = Literal["gzip"]


class Transport(Protocol):
    """Sends requests and returns responses."""

    def send(self, request: Request) -> bytes:
        """Return the response to `request`. Raises a ServingError."""

    def close(self) -> None:
        """Close the connections."""


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
    """Return a client for the server at `url`. Nothing is sent yet.

    `url` is `grpc://HOST[:PORT]` or `http://HOST[:PORT][/PREFIX]`, with TLS `grpcs://` or `https://`. The default ports
    are 8500 and 8501. `dns:///HOST[:PORT]` is gRPC to all addresses of a name in turn, `unix:///PATH` is gRPC to a
    socket. Proxies of the environment are not used, since model servers are near.

    `tls` holds the trusted authorities and the client's certificate. `timeout`, in seconds, applies to calls without a
    timeout of their own. `retries` defines when a request to an unavailable server is sent again; `Retries(attempts=1)`
    turns retries off. With `compression="gzip"` requests and responses are compressed. `metadata` is sent with every
    call, as gRPC metadata or HTTP headers. A response of more than `max_response_bytes`, as received or inflated,
    raises ResourceExhausted.

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
    """Return the calls to `address` over its protocol; a response has at most `largest` bytes.

    Raises ValueError for a limit below 1.
    """
    if largest < 1:
        raise ValueError(f"max_response_bytes must be above 0, got {largest!r}")
    if address.protocol == "grpc":
        from tfserving.clients.grpc_calls import GrpcCalls

        return GrpcCalls(address.target, retries or Retries(), metadata or {}, largest)
    from tfserving.clients.rest_calls import RestCalls

    return RestCalls(address.target, retries or Retries(), metadata or {}, largest)


def check_compression(compression: str | None) -> bool:
    """Return whether messages are compressed. Raises ValueError for an unknown compression."""
    if compression not in (None, "gzip"):
        raise ValueError(f"compression must be 'gzip' or None, got {compression!r}")
    return compression is not None


class Client:
    """A client of one model server, returned by `connect`. Several threads can use it at once.

    Use it in a `with` statement, or call `close`. Every method raises a `tfserving.clients.errors.ServingError`.
    A `timeout` is in seconds and covers the whole call, with its retries and requests for metadata. `version` or
    `label` selects the version; without them the server uses the newest. `metadata` is sent with this call. With
    `check`, a call that doesn't match the signature raises InvalidArgument before it is sent; the signature is
    requested once.
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
        """Return the outputs of signature `signature` for `inputs`, or only those named in `outputs`.

        `inputs` is a mapping of input names to arrays, or a single array when the signature has one input. An array is
        sent with its own dtype. Python lists and numbers are converted to the dtype in the signature, which is
        requested from the server once. Arrays in the result may be read-only views of the response.

        Raises InvalidArgument for inputs or outputs that don't match the signature, FailedPrecondition for a signature
        that the model lacks, and NotFound for a model or a version that isn't served.
        """
        options = self._calls.options(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return self._run(self._calls.predict(options, inputs, outputs, check=check))

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
        """Return the classes of each of `examples`: dicts of features, `tf.train.Example`s, or their bytes.

        The features of `context` are added to every example that lacks them. Raises InvalidArgument for examples that
        don't match the signature or a signature of another method, and NotFound for a model or a version that isn't
        served.
        """
        options = self._calls.options(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return self._run(self._calls.classify(options, examples, context, check=check))

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
        """Return a value for each of `examples`. Examples and errors are those of `classify`."""
        options = self._calls.options(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return self._run(self._calls.regress(options, examples, context, check=check))

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
        """Return the results of several signatures for the same `examples`, by signature. gRPC only.

        `tasks` maps each signature to its method, `classify` or `regress`. Raises Unimplemented over REST.
        """
        options = self._calls.options(
            model, version=version, label=label, timeout=self._seconds(timeout), metadata=metadata
        )
        return self._run(self._calls.multi_inference(options, tasks, examples, context))

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Metadata:
        """Return the signatures of `model`: of its newest version, or of the one that `version` or `label` selects."""
        options = self._calls.options(
            model, version=version, label=label, timeout=self._seconds(timeout), metadata=metadata
        )
        return self._run(self._calls.metadata(options))

    def status(
        self,
        model: str,
        *,
        version: int | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[VersionStatus, ...]:
        """Return the versions of `model`, newest first, with those that were unloaded or failed to load.

        Raises NotFound when the server has no version of the model, or not the requested one.
        """
        options = self._calls.options(model, version=version, timeout=self._seconds(timeout), metadata=metadata)
        return self._run(self._calls.status(options))

    def wait_until_available(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float = 60.0
    ) -> int:
        """Wait until a version is available, and return its number.

        It is `version`, the version with `label`, or without both any version. The server may still be starting, and
        may not have the model yet. Raises the error with which the version failed to load as soon as it does, and
        DeadlineExceeded with the last status when `timeout` passes first.
        """
        options = self._calls.options(model, version=version, label=label, timeout=timeout)
        return self._run(self._calls.wait_until_available(options, timeout))

    def reload_config(
        self, config: Any, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Replace the server's config with `config`, and return when its models are loaded. gRPC only.

        `config` is the text of a models.config, or a ModelServerConfig message. Models that it doesn't name are
        unloaded. The request is never retried. `timeout` covers the loading, since the server responds after it.

        Raises InvalidArgument or FailedPrecondition for a config that the server rejects, which changes nothing, the
        error of a version that failed to load, and Unimplemented over REST.
        """
        options = self._calls.options(None, timeout=self._seconds(timeout), metadata=metadata)
        return self._run(self._calls.reload_config(options, config))

    def close(self) -> None:
        """Close the connections; calls in flight may fail."""
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
                    response = self._do(step)
                except ServingError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _do(self, step: Request | Pause) -> bytes | None:
        if isinstance(step, Request):
            return self._transport.send(step)
        time.sleep(step.seconds)
        return None
