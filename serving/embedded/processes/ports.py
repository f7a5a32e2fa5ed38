"""The TCP ports, claimed before the slow part of starting."""

from __future__ import annotations

import socket

from tfserving.serving.embedded.errors import StartError


def claim(host: str, port: int, flag: str, *, shared: bool = False) -> socket.socket:
    """A socket bound to `port` of `host`, not listening yet.

    Binding fails when another process listens there. Nothing can connect before somebody listens, so that a port
    that is open means a server that is ready. When it is `shared` every process that says so may listen there.
    Raises StartError, which names the flag.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise StartError(f"--host={host}: {error.strerror}") from None
    claimed = socket.socket(family, socket.SOCK_STREAM)
    # Connections of a server that ended a minute ago don't matter; one that listens does, in spite of this.
    claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        claimed.bind(address)
    except OSError as error:
        claimed.close()
        raise StartError(f"--{flag}={port}: can't listen on port {port} of {host}: {error.strerror}") from None
    return claimed


def address(claimed: socket.socket) -> tuple[str, int]:
    """The numeric address and the port that a socket is bound to."""
    host, port = claimed.getsockname()[:2]
    return str(host), int(port)
