"""Hints: why a server can't be reached or closed the connection, from the text of an error."""

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
_REFUSED = re.compile("Connection refused", re.I)
_NO_ADDRESS = re.compile("Name or service not known|name resolution|DNS resolution|address lookup|has no address", re.I)
# A TLS server responds to a client without TLS with an alert, which is read as HTTP or HTTP/2.
_ALERT = re.compile(
    r"\\x15\\x03|illegal status line|GOAWAY|Socket closed|disconnected|Connection reset|Broken pipe", re.I
)

# Commands replace this advice: they know how the user calls this program.
START = ". Start one with `tfserving serve`"
UNRESOLVED = "this machine can't resolve the host name in "
OPTIONS = "Tls(ca=, certificate=, key=) in Python, --tls-ca, --tls-cert and --tls-key of a command"


def unreachable_hint(call: Call, text: str, *, tls: bool) -> str:
    """Return why a client can't connect; `tls` is whether it uses TLS."""
    server, port = call.server, "gRPC" if call.protocol == "grpc" else "REST"
    if _UNTRUSTED.search(text):
        return (
            f"the certificate of {server} isn't trusted, or is for another name; set what to trust with Tls(ca=, "
            "server_name=) in Python, or --tls-ca and --tls-server-name of a command"
        )
    if _NO_TLS.search(text):
        return f"{server} doesn't use TLS on this port; write {'grpc' if call.protocol == 'grpc' else 'http'}:// for it"
    if _NO_ADDRESS.search(text):
        return f"{UNRESOLVED}{server}. Check it"
    if tls and not _REFUSED.search(text):
        return (
            f"check that a server with TLS is running on {server}, and that this is its {port} port. Its certificate "
            f"must be from a trusted authority, and it may require the client's: {OPTIONS}"
        )
    if _TLS.search(text) or _ALERT.search(text):
        return closed_hint(call)
    if call.protocol == "grpc":
        return f"no gRPC server is listening on {server}{START}, or check its gRPC port"
    return f"no REST server is listening on {server}{START}, or check its REST port"


def broken_hint(call: Call, text: str, *, tls: bool) -> str:
    """Return why a connection may have ended before the response was complete; `tls` is whether it was encrypted."""
    if _UNTRUSTED.search(text) or _NO_TLS.search(text):
        return unreachable_hint(call, text, tls=tls)
    port = "gRPC" if call.protocol == "grpc" else "REST"
    closed = _ALERT.search(text) or _TLS.search(text)
    if call.protocol == "grpc" and not closed:
        # The text is the server's and needs no hint.
        return ""
    if tls:
        return (
            f"if {call.server} requires a client's certificate (mutual TLS), it closes connections without a trusted "
            f"one: {OPTIONS}. Also check that this is its {port} port"
        )
    return closed_hint(call)


def closed_hint(call: Call) -> str:
    """Return the hint for a connection without TLS that the server closed at once."""
    if call.protocol == "grpc":
        return f"check that {call.server} is the server's gRPC port. If the server uses TLS, write grpcs://"
    return (
        f"check that {call.server} is the server's REST port, not its gRPC port. If the server uses TLS, write https://"
    )
