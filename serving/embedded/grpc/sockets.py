"""Access to pygrpc-native's sockets for a drain. The library hides them, but they are files of this process.

The library can only close the port and all connections together. Its `close` tells clients to send no more calls, and
cancels those that they have sent. So the port is closed first, and the last responses are *corked*: the kernel holds
written data until the connection is closed, or 0.2 s are over. Then clients receive the last response together with the
message to send no more, and can't send another call in between. This uses TCP_CORK,
https://man7.org/linux/man-pages/man7/tcp.7.html. Where it doesn't exist, as on macOS, such a call may be lost.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

# Less than the 0.2 s that the kernel waits.
LONGEST_SECONDS = 0.15
TICK_SECONDS = 0.005
_CORK: int | None = getattr(socket, "TCP_CORK", None)


def close_port(port: int) -> None:
    """Closes this process's `port` to new connections; existing ones continue.

    The library keeps its file number, which becomes a socket that no client connects to.
    """
    for number, listening in _sockets(port):
        with listening:
            if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                continue
        with socket.create_server(("127.0.0.1", 0), backlog=1) as another:
            another.setblocking(False)
            os.dup2(another.fileno(), number, inheritable=False)


def corked(port: int, count: int, send: Callable[[], None], close: Callable[[], None]) -> None:
    """Calls `send`, and `close` when all is written, so that the `count` clients of `port` receive both at once."""
    connections = [one for _, one in _sockets(port)] if _CORK is not None else []
    try:
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, _CORK or 0, 1)
        until = monotonic() + LONGEST_SECONDS
        send()
        # The library writes in another thread. It is done when each connection has data, and no more is added.
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


def _sockets(port: int) -> Iterator[tuple[int, socket.socket]]:
    """Yields this process's TCP sockets of its own `port`: the file descriptor, and a copy that the caller closes."""
    for file in list(Path("/dev/fd").iterdir()):
        try:
            if not file.is_socket():
                continue
            found = socket.socket(fileno=os.dup(int(file.name)))
        except OSError:
            # Closed meanwhile.
            continue
        if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] == port:
            yield int(file.name), found
        else:
            found.close()


def _unsent(connection: socket.socket) -> int:
    """Returns the number of bytes that the peer has not received yet."""
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))
    except OSError:
        return 0
    return int(count)
