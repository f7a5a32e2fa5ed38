"""Corked connections: what is written to them stays with the kernel until they are closed, or 0.2 s are over.

pygrpc-native's `close` tells clients to send no more calls, and closes connections. A client that has a response before
would send its next call in between, and lose it. So responses and that message have to arrive at once: TCP_CORK has the
kernel send them together, https://man7.org/linux/man-pages/man7/tcp.7.html. The library doesn't give its connections
away, but they are files of this process. Where there is no TCP_CORK, as on macOS, a call may be lost.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic

# Of the 0.2 s that the kernel waits.
LONGEST_SECONDS = 0.15
TICK_SECONDS = 0.005
_CORK: int | None = getattr(socket, "TCP_CORK", None)


def corked(port: int, count: int, send: Callable[[], None], close: Callable[[], None]) -> None:
    """Calls `send`, and `close` when all is written, and has the `count` clients of `port` receive both at once."""
    connections = _connections(port) if _CORK is not None else []
    try:
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, _CORK or 0, 1)
        until = monotonic() + LONGEST_SECONDS
        send()
        # The library writes in a thread of its own: it has done so when each has something, and nothing is added.
        before: list[int] = []
        while monotonic() < until:
            now = [size for size in map(_unsent, connections) if size]
            if now == before and len(now) >= min(count, len(connections)):
                break
            before = now
            time.sleep(TICK_SECONDS)
        close()
    finally:
        for connection in connections:
            connection.close()


def _connections(port: int) -> list[socket.socket]:
    """This process's TCP connections of its own port."""
    found = []
    for file in Path("/dev/fd").iterdir():
        try:
            connection = socket.socket(fileno=os.dup(int(file.name)))
        except OSError:
            # No socket, or closed meanwhile.
            continue
        try:
            tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
            if tcp and connection.getsockname()[1] == port and connection.getpeername():
                found.append(connection)
                continue
        except OSError:
            # One that listens has no peer.
            pass
        connection.close()
    return found


def _unsent(connection: socket.socket) -> int:
    """How many bytes the kernel has of it that the peer hasn't received."""
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))
    except OSError:
        return 0
    return int(count)
