"""The client of a model server for asyncio. Its calls are those of `Client`, awaited.

async with connect_async("grpc://127.0.0.1:8500") as client:
    prediction = await client.predict("digits", {"image": images})
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from tfserving.clients.address import Tls, read_address
from tfserving.clients.call_options import DEFAULT_SIGNATURE
from tfserving.clients.calls import Calls, Task
from tfserving.clients.client import DEFAULT_TIMEOUT, Compression, check_compression, make_calls
from tfserving.clients.errors import ServingError
from tfserving.clients.inputs import Inputs
from tfserving.clients.limits import MAX_RESPONSE_BYTES
from tfserving.clients.results import Classification, Metadata, Prediction, Regression, VersionStatus
from tfserving.clients.steps import Pause, Request, Result, Retries, Steps
from tfserving.foundation.examples import ExampleLike


class AsyncTransport(Protocol):
    """Sends requests and returns responses."""

    async def send(self, request: Request) -> bytes:
        """Return the response to `request`. Raises a ServingError."""

    async def close(self) -> None:
        """Close the connections."""


def connect_async(
    url: str,
    *,
    tls: Tls | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    retries: Retries | None = None,
    compression: Compression | None = None,
    metadata: Mapping[str, str] | None = None,
    max_response_bytes: int = MAX_RESPONSE_BYTES,
) -> AsyncClient:
    """Return a client for asyncio of the server at `url`. See `tfserving.clients.client.connect` for the parameters."""
    address = read_address(url, tls)
    calls = make_calls(address, retries, metadata, max_response_bytes)
    gzip = check_compression(compression)
    if address.protocol == "grpc":
        from tfserving.clients.grpc_transport import AsyncGrpcTransport

        return AsyncClient(calls, AsyncGrpcTransport(address, gzip=gzip, largest=max_response_bytes), timeout)
    from tfserving.clients.rest_transport import AsyncRestTransport

    return AsyncClient(calls, AsyncRestTransport(address, gzip=gzip, largest=max_response_bytes), timeout)


class AsyncClient:
    """A client of one model server for asyncio, returned by `connect_async`. `Client` documents the calls.

    It belongs to the event loop of its first call. Many tasks of that loop can use it at once.
    """

    def __init__(self, calls: Calls, transport: AsyncTransport, timeout: float) -> None:
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

    async def predict(
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
        """See `tfserving.clients.client.Client.predict`."""
        options = self._calls.options(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return await self._run(self._calls.predict(options, inputs, outputs, check=check))

    async def classify(
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
        """See `tfserving.clients.client.Client.classify`."""
        options = self._calls.options(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return await self._run(self._calls.classify(options, examples, context, check=check))

    async def regress(
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
        """See `tfserving.clients.client.Client.regress`."""
        options = self._calls.options(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return await self._run(self._calls.regress(options, examples, context, check=check))

    async def multi_inference(
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
        """See `tfserving.clients.client.Client.multi_inference`."""
        options = self._calls.options(
            model, version=version, label=label, timeout=self._seconds(timeout), metadata=metadata
        )
        return await self._run(self._calls.multi_inference(options, tasks, examples, context))

    async def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Metadata:
        """See `tfserving.clients.client.Client.metadata`."""
        options = self._calls.options(
            model, version=version, label=label, timeout=self._seconds(timeout), metadata=metadata
        )
        return await self._run(self._calls.metadata(options))

    async def status(
        self,
        model: str,
        *,
        version: int | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[VersionStatus, ...]:
        """See `tfserving.clients.client.Client.status`."""
        options = self._calls.options(model, version=version, timeout=self._seconds(timeout), metadata=metadata)
        return await self._run(self._calls.status(options))

    async def wait_until_available(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float = 60.0
    ) -> int:
        """See `tfserving.clients.client.Client.wait_until_available`."""
        options = self._calls.options(model, version=version, label=label, timeout=timeout)
        return await self._run(self._calls.wait_until_available(options, timeout))

    async def reload_config(
        self, config: Any, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        """See `tfserving.clients.client.Client.reload_config`."""
        options = self._calls.options(None, timeout=self._seconds(timeout), metadata=metadata)
        return await self._run(self._calls.reload_config(options, config))

    async def close(self) -> None:
        """Close the connections; calls in flight may fail."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    async def _run(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                try:
                    response = await self._do(step)
                except ServingError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _do(self, step: Request | Pause) -> bytes | None:
        if isinstance(step, Request):
            return await self._transport.send(step)
        await asyncio.sleep(step.seconds)
        return None
