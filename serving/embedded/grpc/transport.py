"""Which library carries gRPC: pygrpc-native where it can do what the flags ask, else grpcio.

pygrpc-native needs a third of grpcio's CPU, see docs/performance.md. It can't do all that grpcio does, and it has no
limit for what a client sends before a message is there: see docs/security.md. So it is chosen only for a port of the
loopback address, unless a flag names it.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import tempfile
from dataclasses import dataclass
from ipaddress import ip_address

from tfserving.serving.embedded import flags as names
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.flags import Flags

# gRPC's own settings that pygrpc-native has, by its names for them.
SETTINGS = {
    "grpc.keepalive_time_ms": "keepalive_time_ms",
    "grpc.keepalive_timeout_ms": "keepalive_timeout_ms",
    "grpc.keepalive_permit_without_calls": "keepalive_permit_without_calls",
    "grpc.max_concurrent_streams": "max_concurrent_streams",
    "grpc.absolute_max_metadata_size": "max_metadata_size",
}
# Of a UNIX socket's path, which has 104 bytes on macOS: https://man7.org/linux/man-pages/man7/unix.7.html.
LONGEST_FOLDER = 70


@dataclass(frozen=True)
class Transport:
    """Whether pygrpc-native carries gRPC, and why not."""

    native: bool
    why: str = ""

    def __str__(self) -> str:
        return f"{'pygrpc-native' if self.native else 'grpcio'}{self.why and f': {self.why}'}"


GRPCIO = Transport(native=False)


def choose(flags: Flags) -> Transport:
    """What the flags ask for. Raises StartError when they ask for pygrpc-native and for what it can't do."""
    if flags.grpc_transport == names.GRPCIO:
        return GRPCIO
    missing = _missing(flags)
    if flags.grpc_transport == names.NATIVE:
        if missing:
            raise StartError(f"--grpc_transport={names.NATIVE}: {missing}; --grpc_transport={names.GRPCIO} can do it")
        return Transport(native=True)
    if not missing and flags.grpc_receive_timeout_in_ms != Flags.grpc_receive_timeout_in_ms:
        missing = "pygrpc-native has no --grpc_receive_timeout_in_ms"
    if not missing and not _is_loopback(flags.host):
        missing = f"pygrpc-native bounds no message before it is there, and others reach {flags.host}"
    return Transport(not missing, missing)


def _missing(flags: Flags) -> str:
    """What pygrpc-native can't do of what the flags ask; nothing when it can."""
    if importlib.util.find_spec("pygrpc_native") is None:
        return "pygrpc-native isn't installed"
    if flags.ssl_config_file is not None:
        return "pygrpc-native has no TLS"
    if flags.grpc_socket_path:
        return "pygrpc-native has no --grpc_socket_path beside the port"
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        return "pygrpc-native needs a folder for a socket, and no temporary folder can be written"
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        return f"pygrpc-native needs a folder for a socket, and the path {folder} is too long"
    for key, value in flags.grpc_settings.items():
        if key not in SETTINGS or not value.isdecimal():
            return f"pygrpc-native has no setting {key}={value}"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    return all(ip_address(one[4][0]).is_loopback for one in found)
