"""Why a server could not be reached, or closed the connection, as far as the text of an error shows it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfserving.clients.errors import Call

_UNTRUSTED = re.compile(
    "certificate.verify.failed|hostname mismatch|hostname verification|Peer name .* is not in peer certificate", re.I
)
_TLS = re.compile(r"\bssl\b|\[ssl|handshake|\btls", re.I)
_NO_TLS = re.compile(r"WRONG_VERSION_NUMBER|wrong version number|record layer failure|packet length too long", re.I)
_NO_ADDRESS = re.compile("Name or service not known|name resolution|DNS resolution|address lookup|has no address", re.I)
# What a server that speaks TLS sends back to one that doesn't: an alert, read as HTTP or HTTP/2.
_ALERT = re.compile(
    r"\\x15\\x03|illegal status line|GOAWAY|Socket closed|disconnected|Connection reset|Broken pipe", re.I
)

OPTIONS = "Tls(ca=, certificate=, key=) in Python, --tls-ca, --tls-cert and --tls-key of a command"


def unreachable_hint(call: Call, text: str, *, tls: bool) -> str:
    """What keeps a client from connecting; `tls` is whether it speaks TLS."""
    server, port = call.server, "gRPC" if call.protocol == "grpc" else "REST"
    if _UNTRUSTED.search(text):
        return (
            f"the certificate of {server} isn't trusted, or is for another name: Tls(ca=, server_name=) in Python, "
            "--tls-ca and --tls-server-name of a command say whom to trust"
        )
    if _NO_TLS.search(text):
        return (
            f"{server} does not speak TLS on this port: use {'grpc' if call.protocol == 'grpc' else 'http'}:// for it"
        )
    if _NO_ADDRESS.search(text):
        return f"is {server} the right name, and can this machine look it up?"
    if tls:
        return (
            f"is a server that speaks TLS running on {server}, and is this its {port} port? Its certificate must be "
            f"from a trusted authority, and it may want the client's: {OPTIONS}"
        )
    if _TLS.search(text) or _ALERT.search(text):
        return closed_hint(call)
    if call.protocol == "grpc":
        return f"nobody answers gRPC on {server}; is the server running, and is this its gRPC port?"
    return f"nobody answers HTTP on {server}; is the server running, with --rest_api_port set to this port?"


def broken_hint(call: Call, text: str, *, tls: bool) -> str:
    """What may have ended a connection before the answer was complete; `tls` is whether it was encrypted."""
    if _UNTRUSTED.search(text) or _NO_TLS.search(text):
        return unreachable_hint(call, text, tls=tls)
    port = "gRPC" if call.protocol == "grpc" else "REST"
    closed = _ALERT.search(text) or _TLS.search(text)
    if call.protocol == "grpc" and not closed:
        # The server's own text.
        return ""
    if tls:
        return (
            f"if {call.server} wants a client's certificate (mutual TLS), it closes the connections of clients that "
            f"have none that it trusts: {OPTIONS}. Is this its {port} port?"
        )
    return closed_hint(call)


def closed_hint(call: Call) -> str:
    """For a connection without TLS that the server closed at once."""
    if call.protocol == "grpc":
        return f"is {call.server} the server's gRPC port? If it speaks TLS, its address begins with grpcs://"
    return f"is {call.server} the server's REST port, not its gRPC port? If it speaks TLS, its address begins with https://"
