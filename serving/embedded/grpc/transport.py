"""Chooses the library that carries gRPC: pygrpc-native where it supports the flags, else grpcio.

pygrpc-native takes a third of grpcio's CPU: see docs/performance.md. It supports less than grpcio, and doesn't limit
what a client sends before a message is complete: see docs/security.md. So it is chosen only on a loopback address,
unless a flag names it.
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

# The gRPC settings that pygrpc-native supports, with its names for them.
SETTINGS = {
    "grpc.keepalive_time_ms": "keepalive_time_ms",
    "grpc.keepalive_timeout_ms": "keepalive_timeout_ms",
    "grpc.keepalive_permit_without_calls": "keepalive_permit_without_calls",
    "grpc.max_concurrent_streams": "max_concurrent_streams",
    "grpc.absolute_max_metadata_size": "max_metadata_size",
}
# The path of a UNIX socket can have 104 bytes on macOS: https://man7.org/linux/man-pages/man7/unix.7.html.
LONGEST_FOLDER = 70


@dataclass(frozen=True)
class Transport:
    """Whether pygrpc-native carries gRPC, and the reason if not."""

    native: bool
    why: str = ""

    def __str__(self) -> str:
        return f"{'pygrpc-native' if self.native else 'grpcio'}{self.why and f': {self.why}'}"


GRPCIO = Transport(native=False)


def choose(flags: Flags) -> Transport:
    """Returns the transport for the flags. Raises StartError when they name pygrpc-native and it lacks a feature."""
    if flags.grpc_transport == names.GRPCIO:
        return GRPCIO
    missing = _missing(flags)
    if flags.grpc_transport == names.NATIVE:
        if missing:
            raise StartError(f"--grpc_transport={names.NATIVE}: {missing}. Use --grpc_transport={names.GRPCIO}")
        return Transport(native=True)
    if not missing and flags.grpc_receive_timeout_in_ms != Flags.grpc_receive_timeout_in_ms:
        missing = "pygrpc-native does not support --grpc_receive_timeout_in_ms"
    if not missing and not _is_loopback(flags.host):
        missing = f"pygrpc-native does not limit incomplete messages, and other machines can reach {flags.host}"
    return Transport(not missing, missing)


def _missing(flags: Flags) -> str:
    """Returns the feature of the flags that pygrpc-native lacks; empty when it supports all."""
    if importlib.util.find_spec("pygrpc_native") is None:
        return "pygrpc-native is not installed"
    if flags.ssl_config_file is not None:
        return "pygrpc-native does not support TLS"
    if flags.grpc_socket_path:
        return "pygrpc-native does not support --grpc_socket_path"
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        return "pygrpc-native requires a temporary folder for a socket, and none is writable"
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        return f"pygrpc-native requires a temporary folder for a socket, and the path {folder} is too long"
    for key, value in flags.grpc_settings.items():
        if key not in SETTINGS or not value.isdecimal():
            return f"pygrpc-native does not support the setting {key}={value}"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    return all(ip_address(one[4][0]).is_loopback for one in found)
