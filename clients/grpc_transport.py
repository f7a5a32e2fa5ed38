"""Sends requests over gRPC, blocking or on an event loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tfserving.clients.address import Address, Tls
from tfserving.clients.errors import Call, Cancelled, Internal, InvalidArgument, ServingError, from_grpc
from tfserving.clients.limits import MAX_RESPONSE_BYTES
from tfserving.clients.steps import Request, remaining_seconds

# https://github.com/grpc/grpc/blob/master/include/grpc/impl/channel_arg_names.h
OPTIONS: tuple[tuple[str, Any], ...] = (
    # The server has a limit of its own.
    ("grpc.max_send_message_length", -1),
    # The text of an error is metadata, which grpcio limits to 8 kB by default.
    ("grpc.max_metadata_size", 64 * 1024),
    ("grpc.enable_http_proxy", 0),
    # Each client has its own connection: failed attempts of another one would delay it.
    ("grpc.use_local_subchannel_pool", 1),
    # A starting server is found soon; by default grpcio waits up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
# A server that vanished is noticed after this time plus 20 s. gRPC servers close the connection of a client that pings
# more often than every 5 minutes: https://github.com/grpc/grpc/blob/master/doc/keepalive.md
KEEPALIVE = (("grpc.keepalive_time_ms", 300_000), ("grpc.keepalive_timeout_ms", 20_000))
# gRPC uses a C int.
_LARGEST_LIMIT = 2**31 - 1


class GrpcTransport:
    """A blocking transport."""

    def __init__(self, address: Address, *, gzip: bool, largest: int = MAX_RESPONSE_BYTES) -> None:
        self._tls = address.tls is not None
        self._channel = new_channel(grpc, address, gzip=gzip, largest=largest)
        self._methods: dict[str, Any] = {}

    def send(self, request: Request) -> bytes:
        """Return the response to `request`, serialized. Raises a ServingError."""
        method = self._methods.get(request.path)
        if method is None:
            method = self._methods[request.path] = self._channel.unary_unary(request.path)
        timeout = remaining_seconds(request.deadline, request.call)
        try:
            response: bytes | None
            if request.received is None:
                response = method(request.body, timeout=timeout, metadata=_metadata(request.metadata))
            else:
                response, call = method.with_call(request.body, timeout=timeout, metadata=_metadata(request.metadata))
                request.received.update(_texts(call.initial_metadata()))
        except grpc.RpcError as error:
            raise from_grpc(error, request.call, tls=self._tls) from None
        except ValueError as error:
            raise _unsent(error, request.call) from None
        return _whole(response, request.call)

    def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        self._channel.close()


class AsyncGrpcTransport:
    """A transport on the event loop of its first request."""

    def __init__(self, address: Address, *, gzip: bool, largest: int = MAX_RESPONSE_BYTES) -> None:
        self._address, self._gzip, self._largest = address, gzip, largest
        self._channel: Any = None
        self._methods: dict[str, Any] = {}

    async def send(self, request: Request) -> bytes:
        """Return the response to `request`, serialized. Raises a ServingError."""
        if self._channel is None:
            self._channel = new_channel(grpc.aio, self._address, gzip=self._gzip, largest=self._largest)
        method = self._methods.get(request.path)
        if method is None:
            method = self._methods[request.path] = self._channel.unary_unary(request.path)
        timeout = remaining_seconds(request.deadline, request.call)
        try:
            call = method(request.body, timeout=timeout, metadata=_metadata(request.metadata))
            response: bytes | None = await call
            if request.received is not None:
                request.received.update(_texts(await call.initial_metadata()))
        except grpc.RpcError as error:
            raise from_grpc(error, request.call, tls=self._address.tls is not None) from None
        except (grpc.aio.UsageError, ValueError, TypeError) as error:
            raise _unsent(error, request.call) from None
        return _whole(response, request.call)

    async def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        if self._channel is not None:
            await self._channel.close()


def new_channel(made_by: Any, address: Address, *, gzip: bool, largest: int = MAX_RESPONSE_BYTES) -> Any:
    """Return a channel to `address` of `grpc` or `grpc.aio`. A message has at most `largest` bytes, also inflated."""
    options = [*OPTIONS, *KEEPALIVE, ("grpc.max_receive_message_length", min(largest, _LARGEST_LIMIT))]
    if address.every_address:
        options.append(("grpc.lb_policy_name", "round_robin"))
    compression = grpc.Compression.Gzip if gzip else None
    if address.tls is None:
        return made_by.insecure_channel(address.target, options=options, compression=compression)
    if address.tls.server_name:
        options.append(("grpc.ssl_target_name_override", address.tls.server_name))
    return made_by.secure_channel(address.target, _credentials(address.tls), options=options, compression=compression)


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    def read(path: Path | str | None) -> bytes | None:
        return None if path is None else Path(path).read_bytes()

    made: grpc.ChannelCredentials = grpc.ssl_channel_credentials(
        root_certificates=read(tls.ca), private_key=read(tls.key), certificate_chain=read(tls.certificate)
    )
    return made


def _metadata(metadata: Mapping[str, str] | None) -> tuple[tuple[str, str], ...] | None:
    return tuple((name.lower(), value) for name, value in metadata.items()) if metadata else None


def _texts(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Return the entries whose value is text."""
    return {name: value for name, value in metadata or () if isinstance(value, str)}


def _whole(response: bytes | None, call: Call) -> bytes:
    if response is None:
        raise Internal("the server ended the call without a response", call)
    return response


def _unsent(error: Exception, call: Call) -> ServingError:
    if "closed" in str(error):
        return Cancelled(f"the client is closed ({error})", call)
    return InvalidArgument(f"the request can't be sent: {error}", call)
