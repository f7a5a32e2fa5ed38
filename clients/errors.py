"""Every way in which a call to a model server can fail.

    ServingError
    ├── InvalidArgument      a tensor, a name or a label that the server rejects
    ├── FailedPrecondition   the model lacks the requested signature
    ├── NotFound             no such model, or no such version
    ├── OutOfRange           a value outside the range of the model
    ├── Unauthenticated      the server requires authentication
    ├── PermissionDenied     the client isn't allowed to do this
    ├── AlreadyExists        ┐
    ├── Aborted              ┘ a conflict with another change
    ├── ResourceExhausted    the server is out of memory, or a limit was exceeded
    ├── Cancelled            the call was cancelled
    ├── Unimplemented        the protocol can't carry it, or the server lacks the method
    ├── Unavailable          no server is listening, or it is full or shutting down
    ├── DeadlineExceeded     no response within the timeout
    ├── DataLoss             ┐
    ├── Internal             │ the server failed, or its response can't be read
    └── Unknown              ┘

Each class is one of gRPC's status codes (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md). TensorFlow
Serving's REST API returns an HTTP status instead, and one status for several codes
(https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/util/net_http/server/public/response_code_enum.h).
Where the error's text shows the code, REST raises the same class as gRPC.
"""

# ruff: noqa: N818 - the names are those of gRPC's status codes
from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from tfserving.clients.limits import MOST_LINES, RAISE_IT
from tfserving.clients.printable import printable, shortened
from tfserving.clients.unreachable import broken_hint, unreachable_hint

if TYPE_CHECKING:
    import grpc

# How many characters an error quotes of a response that isn't TensorFlow Serving's.
QUOTED_CHARACTERS = 200
PROTOCOL_NAMES = {"grpc": "gRPC", "rest": "REST"}
# The texts of a call that gets no complete response in time: gRPC's, and that of the REST client.
NO_RESPONSE = ("Deadline Exceeded", "no complete response within the timeout")
# The text with which gRPC rejects calls that exceed the threads of a server.
BUSY = "Server Threadpool Exhausted"


class Call(NamedTuple):
    """The target of a call. `protocol` is `grpc` or `rest`, `server` the address. Fields that don't apply are empty."""

    protocol: str = ""
    server: str = ""
    model: str = ""
    version: int | None = None
    label: str | None = None
    signature: str | None = None

    def __str__(self) -> str:
        """For example `digits version 3, signature 'serving_default', over gRPC`."""
        text = self.model
        if self.version is not None:
            text += f" version {self.version}"
        elif self.label is not None:
            text += f" label {self.label!r}"
        parts = [text] if text else []
        if self.signature is not None:
            parts.append(f"signature {self.signature!r}")
        if self.protocol:
            parts.append(f"over {PROTOCOL_NAMES[self.protocol]}")
        return ", ".join(parts)


class ServingError(Exception):
    """A call failed.

    `text` is the server's text, or the client's when the call didn't reach the server. `hint` is the likely cause and
    what to do. `model`, `version` or `label`, `signature`, `protocol` and `server` are those of the call.
    """

    code: ClassVar[str] = "UNKNOWN"
    http_status: ClassVar[int] = 500

    def __init__(self, text: str, call: Call | None = None, hint: str = "") -> None:
        self.text = shortened(text)
        super().__init__(self.text)
        self.call = call or Call()
        self.hint = hint

    @property
    def model(self) -> str:
        """The model of the call."""
        return self.call.model

    @property
    def version(self) -> int | None:
        """The requested version; None without one."""
        return self.call.version

    @property
    def label(self) -> str | None:
        """The requested label; None without one."""
        return self.call.label

    @property
    def signature(self) -> str | None:
        """The requested signature; None in calls without one."""
        return self.call.signature

    @property
    def protocol(self) -> str:
        """`grpc` or `rest`."""
        return self.call.protocol

    @property
    def server(self) -> str:
        """The server's address, as it was given to `connect`."""
        return self.call.server

    def __str__(self) -> str:
        """Return the failure in one line, then the lines of the hint, all safe on a terminal."""
        where = printable(str(self.call))
        text = f"{self.code}: {printable(self.text)}"
        hint = self.hint.splitlines()
        more = [f"… ({len(hint) - MOST_LINES} more lines)"] if len(hint) > MOST_LINES else []
        return "\n".join([f"{where}: {text}" if where else text, *map(printable, hint[:MOST_LINES]), *more])


class InvalidArgument(ServingError):
    """A tensor, a name or a label that the server rejects."""

    code, http_status = "INVALID_ARGUMENT", 400


class FailedPrecondition(ServingError):
    """The model lacks the requested signature, or the server's state doesn't allow the call."""

    code, http_status = "FAILED_PRECONDITION", 400


class OutOfRange(ServingError):
    """A value outside the range of the model; also the error of a truncated SavedModel that fails to load."""

    code, http_status = "OUT_OF_RANGE", 400


class Unauthenticated(ServingError):
    """The server requires authentication."""

    code, http_status = "UNAUTHENTICATED", 401


class PermissionDenied(ServingError):
    """The client isn't allowed to make this call."""

    code, http_status = "PERMISSION_DENIED", 403


class NotFound(ServingError):
    """The server has no such model, or no such version of it."""

    code, http_status = "NOT_FOUND", 404


class AlreadyExists(ServingError):
    """It exists already."""

    code, http_status = "ALREADY_EXISTS", 409


class Aborted(ServingError):
    """The call conflicts with another change."""

    code, http_status = "ABORTED", 409


class ResourceExhausted(ServingError):
    """The server is out of memory, or a limit was exceeded."""

    code, http_status = "RESOURCE_EXHAUSTED", 429


class Cancelled(ServingError):
    """The call was cancelled before its response arrived."""

    code, http_status = "CANCELLED", 499


class Unknown(ServingError):
    """The server failed without a reason."""

    code, http_status = "UNKNOWN", 500


class DataLoss(ServingError):
    """The server's data is damaged."""

    code, http_status = "DATA_LOSS", 500


class Internal(ServingError):
    """The server failed, or its response can't be read."""

    code, http_status = "INTERNAL", 500


class Unimplemented(ServingError):
    """The protocol can't carry the request, or the server lacks the method."""

    code, http_status = "UNIMPLEMENTED", 501


class Unavailable(ServingError):
    """No server is listening, or it is full or shutting down."""

    code, http_status = "UNAVAILABLE", 503


class DeadlineExceeded(ServingError):
    """No response within the timeout."""

    code, http_status = "DEADLINE_EXCEEDED", 504


_CLASSES: tuple[type[ServingError], ...] = (
    *(InvalidArgument, FailedPrecondition, OutOfRange, Unauthenticated, PermissionDenied, NotFound, AlreadyExists),
    *(Aborted, ResourceExhausted, Cancelled, Internal, DataLoss, Unknown, Unimplemented, Unavailable, DeadlineExceeded),
)
_BY_CODE = {kind.code: kind for kind in _CLASSES}
# Of the classes that share a status, the first one is used, unless the text shows another.
_BY_STATUS = {kind.http_status: kind for kind in reversed(_CLASSES)}
# Statuses of proxies and of overloaded HTTP servers.
_BY_STATUS |= {408: DeadlineExceeded, 413: ResourceExhausted, 502: Unavailable}

# REST returns 400 for these texts; gRPC returns these codes for the same request.
_TEXTS: tuple[tuple[re.Pattern[str], type[ServingError]], ...] = (
    (re.compile(r'^Serving signature name: ".*" not found in signature def', re.S), FailedPrecondition),
    (re.compile(r"^End of sequence"), OutOfRange),
)
# Causes that the server's texts don't mention, and what to do.
_HINTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"Unrecognized servable version label"),
        "no available version has this label. Set it in version_labels of the server's models.config; the version must "
        "be loaded first",
    ),
    (
        re.compile(r"batch scheduling queue .* is full", re.S),
        "requests arrive faster than the server computes them: send fewer at a time, or raise max_enqueued_batches in "
        "its batching_parameters_file",
    ),
    (
        re.compile(f"^{BUSY}$"),
        "all threads of the server are busy: send fewer requests at a time, or raise its --grpc_max_threads (4 for "
        "each CPU by default), in models.yaml server.grpc_max_threads",
    ),
    (re.compile(r"(CLIENT: Received|Decompressed) message larger than max", re.S), RAISE_IT),
    (
        re.compile(r"message larger than max", re.S),
        "the server or a proxy has this limit. Raise --max_body_bytes of the embedded server, or "
        "grpc.max_receive_message_length in --grpc_channel_arguments of TensorFlow Serving",
    ),
)
_UNREACHABLE = re.compile("failed to connect|handshake|DNS resolution|errors resolving|connect failed", re.I)
_QUOTED_CODE = re.compile(r"\bError: ([A-Z_]+): ")


def from_code(code: str, text: str, call: Call | None = None, hint: str = "") -> ServingError:
    """Return the error of a status code's name, for example `NOT_FOUND`; Unknown for a name that gRPC lacks."""
    return _BY_CODE.get(code, Unknown)(text, call, hint)


def from_grpc(error: grpc.RpcError, call: Call, *, tls: bool = False) -> ServingError:
    """Return the error of a failed gRPC call; `tls` is whether its connection is encrypted."""
    code = getattr(error, "code", None)
    details = getattr(error, "details", None)
    text = str(details() or "") if details else str(error)
    made = from_code(code().name if code else "UNKNOWN", text or "the server gave no reason", call)
    made.hint = known_hint(text)
    if isinstance(made, Unavailable) and not made.hint:
        hint = unreachable_hint if _UNREACHABLE.search(text) else broken_hint
        made.hint = hint(call, text, tls=tls)
    elif isinstance(made, Unimplemented) and not text:
        made.hint = f"{call.server} is a gRPC server without TensorFlow Serving's API"
    return made


def from_http(status: int, body: bytes, call: Call) -> ServingError:
    """Return the error of an HTTP response that isn't 2xx: TensorFlow Serving's `{"error": "..."}`, or another page."""
    try:
        text = json.loads(body.decode("utf-8", "replace"))["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        text = None
    kind = _BY_STATUS.get(status) or (InvalidArgument if 400 <= status < 500 else Internal)  # noqa: PLR2004 - client's, server's
    if not isinstance(text, str):
        quoted = " ".join(body[:QUOTED_CHARACTERS].decode("utf-8", "replace").split())
        return kind(
            f"HTTP {status} {quoted}".rstrip(),
            call,
            f"the response isn't one of TensorFlow Serving's REST API; check that {call.server} is its REST port",
        )
    for pattern, better in _TEXTS:
        if pattern.match(text):
            return better(text, call, known_hint(text))
    quoted_code = _QUOTED_CODE.search(text)
    if quoted_code and kind.http_status == InvalidArgument.http_status:
        kind = _BY_CODE.get(quoted_code[1], kind)
    use_grpc = kind is Unimplemented and "Conversion of JSON" in text
    return kind(text, call, "use gRPC, which carries every dtype" if use_grpc else known_hint(text))


def known_hint(text: str) -> str:
    """Return the likely cause of an error from its text, and what to do; "" when it is unknown."""
    return next((hint for pattern, hint in _HINTS if pattern.search(text)), "")
