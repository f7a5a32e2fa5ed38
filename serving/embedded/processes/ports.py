"""The TCP ports, claimed before the slow part of starting."""

from __future__ import annotations

import errno
import socket

from tfserving.serving.embedded.errors import StartError


def claim(host: str, port: int, flag: str, *, shared: bool = False) -> socket.socket:
    """Returns a socket bound to `port` of `host`, not listening yet.

    Binding fails when another process listens there. Clients can't connect before the socket listens, so an open port
    means that the server is ready. Several processes can listen on a `shared` port.
    Raises StartError, which names the flag.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise StartError(f"--host={host} is not an address of this machine: {error.strerror}") from None
    claimed = socket.socket(family, socket.SOCK_STREAM)
    # Ignores closed connections of an earlier server. Binding still fails while another server listens.
    claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        claimed.bind(address)
    except OSError as error:
        claimed.close()
        raise StartError(
            f"--{flag}={port}: can't listen on port {port} of {host}: {error.strerror}{_hint(error, flag)}"
        ) from None
    return claimed


def address(claimed: socket.socket) -> tuple[str, int]:
    """Returns the numeric address and the port that a socket is bound to."""
    host, port = claimed.getsockname()[:2]
    return str(host), int(port)


def _hint(error: OSError, flag: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f". Stop the process that uses the port, or set another --{flag}"
    if error.errno == errno.EADDRNOTAVAIL:
        return ". Set --host to an address of this machine"
    return ""
