"""A server of known delay: `python -m tests.clients.bench.delay_server GRPC_PORT REST_PORT DELAY [STALL_AFTER STALL]`.

It answers every call, over gRPC and over HTTP, after DELAY seconds. With a stall it answers nothing for STALL seconds,
STALL_AFTER seconds after the first request: all that comes in between waits for its end. `GET /median` answers the
median, in seconds, of how long it really took to answer what was asked since it was last asked for that.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import Any

import grpc.aio


class Delay:
    """When a request that comes now is answered; how long the answers took."""

    def __init__(self, delay: float, stall_after: float = 0.0, stall: float = 0.0) -> None:
        self._delay, self._stall_after, self._stall = delay, stall_after, stall
        self._first = 0.0
        self._taken: list[float] = []

    async def wait(self) -> None:
        now = time.monotonic()
        self._first = self._first or now
        end = self._first + self._stall_after + self._stall
        stalled = end - now if end - self._stall <= now < end else 0.0
        await asyncio.sleep(max(stalled, 0) + self._delay)
        self._taken.append(time.monotonic() - now)

    def median(self) -> float:
        taken, self._taken = self._taken, []
        return statistics.median(taken)


async def serve(grpc_port: int, rest_port: int, delay: Delay) -> None:
    class Handler(grpc.GenericRpcHandler):
        def service(self, _details: Any) -> Any:
            async def answer(_request: bytes, _context: Any) -> bytes:
                await delay.wait()
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")

    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            body = b"{}"
            if head.startswith(b"GET /median "):
                body = b"%r" % delay.median()
            else:
                await delay.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    rest = await asyncio.start_server(http, "127.0.0.1", rest_port)
    await server.start()
    print("ready", flush=True)
    async with rest:
        await rest.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), Delay(*map(float, sys.argv[3:]))))
