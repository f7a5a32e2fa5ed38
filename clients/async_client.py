"""The client of a model server for asyncio: the same calls, awaited.

async with connect_async("grpc://127.0.0.1:8500") as client:
    prediction = await client.predict("digits", {"image": images})
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from tfserving.clients.address import Tls, read_address
from tfserving.clients.answers import Classification, Metadata, Prediction, Regression, VersionStatus
from tfserving.clients.asked import DEFAULT_SIGNATURE
from tfserving.clients.calls import Calls, Task
from tfserving.clients.client import DEFAULT_TIMEOUT, Compression, check_compression, make_calls
from tfserving.clients.errors import ServingError
from tfserving.clients.inputs import Inputs
from tfserving.clients.limits import MAX_RESPONSE_BYTES
from tfserving.clients.steps import Ask, Pause, Result, Retries, Steps
from tfserving.foundation.examples import ExampleLike


class AsyncTransport(Protocol):
    """How questions reach the server, and answers come back."""

    async def ask(self, ask: Ask) -> bytes:
        """The answer to `ask`. Raises a ServingError."""

    async def close(self) -> None:
        """Closes the connections."""


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
    """A client for asyncio of the server at `url`; the parameters are those of `tfserving.clients.client.connect`."""
    address = read_address(url, tls)
    calls = make_calls(address, retries, metadata, max_response_bytes)
    gzip = check_compression(compression)
    if address.protocol == "grpc":
        from tfserving.clients.grpc_transport import AsyncGrpcTransport

        return AsyncClient(calls, AsyncGrpcTransport(address, gzip=gzip, largest=max_response_bytes), timeout)
    from tfserving.clients.rest_transport import AsyncRestTransport

    return AsyncClient(calls, AsyncRestTransport(address, gzip=gzip, largest=max_response_bytes), timeout)


class AsyncClient:
    """Calls to one model server, made by `connect_async`: those of `Client`, which documents them.

    It belongs to the event loop that its first call is awaited on; many tasks of that can use it at once.
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
        asked = self._calls.asked(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return await self._run(self._calls.predict(asked, inputs, outputs, check=check))

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
        asked = self._calls.asked(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return await self._run(self._calls.classify(asked, examples, context, check=check))

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
        asked = self._calls.asked(
            model,
            version=version,
            label=label,
            signature=signature,
            timeout=self._seconds(timeout),
            metadata=metadata,
        )
        return await self._run(self._calls.regress(asked, examples, context, check=check))

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
        asked = self._calls.asked(
            model, version=version, label=label, timeout=self._seconds(timeout), metadata=metadata
        )
        return await self._run(self._calls.multi_inference(asked, tasks, examples, context))

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
        asked = self._calls.asked(
            model, version=version, label=label, timeout=self._seconds(timeout), metadata=metadata
        )
        return await self._run(self._calls.metadata(asked))

    async def status(
        self,
        model: str,
        *,
        version: int | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[VersionStatus, ...]:
        """See `tfserving.clients.client.Client.status`."""
        asked = self._calls.asked(model, version=version, timeout=self._seconds(timeout), metadata=metadata)
        return await self._run(self._calls.status(asked))

    async def wait_until_available(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float = 60.0
    ) -> int:
        """See `tfserving.clients.client.Client.wait_until_available`."""
        asked = self._calls.asked(model, version=version, label=label, timeout=timeout)
        return await self._run(self._calls.wait_until_available(asked, timeout))

    async def reload_config(
        self, config: Any, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        """See `tfserving.clients.client.Client.reload_config`."""
        asked = self._calls.asked(None, timeout=self._seconds(timeout), metadata=metadata)
        return await self._run(self._calls.reload_config(asked, config))

    async def close(self) -> None:
        """Closes the connections; calls in flight may fail."""
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
                    answer = await self._do(step)
                except ServingError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _do(self, step: Ask | Pause) -> bytes | None:
        if isinstance(step, Ask):
            return await self._transport.ask(step)
        await asyncio.sleep(step.seconds)
        return None
