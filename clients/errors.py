"""Every way in which a call to a model server can fail.

    ServingError
    ├── InvalidArgument      a tensor, a name or a label that the server can't take
    ├── FailedPrecondition   the signature asked for is not one of the model's
    ├── NotFound             no such model, or no such version
    ├── OutOfRange           a value past the end of what the model accepts
    ├── Unauthenticated      the server wants to know who asks
    ├── PermissionDenied     it knows, and refuses
    ├── AlreadyExists        ┐
    ├── Aborted              ┘ another change was in the way
    ├── ResourceExhausted    the server has no memory for it, or limits how much is asked
    ├── Cancelled            the call was given up
    ├── Unimplemented        the protocol can't carry it, or the server has no such method
    ├── Unavailable          nobody listens there, or the server is full or shutting down
    ├── DeadlineExceeded     no answer within the timeout
    ├── DataLoss             ┐
    ├── Internal             │ the server broke, or its answer can't be read
    └── Unknown              ┘

Each class is one of gRPC's status codes (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md). TensorFlow
Serving's REST API answers an HTTP status instead, and one status for several codes
(https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/util/net_http/server/public/response_code_enum.h);
where its text tells them apart, REST raises what gRPC raises for the same mistake.
"""

# ruff: noqa: N818 - the names are those of gRPC's status codes, as users of model servers know them
from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from tfserving.clients.limits import MOST_LINES, RAISE_IT
from tfserving.clients.printable import printable, shortened
from tfserving.clients.unreachable import broken_hint, unreachable_hint

if TYPE_CHECKING:
    import grpc

# How much of an answer that is not TensorFlow Serving's an error quotes.
QUOTED_CHARACTERS = 200
PROTOCOL_NAMES = {"grpc": "gRPC", "rest": "REST"}
# With which gRPC refuses the calls that exceed the threads of a server.
BUSY = "Server Threadpool Exhausted"


class Call(NamedTuple):
    """What was asked of whom, as far as it applies. `protocol` is `grpc` or `rest`, `server` its address."""

    protocol: str = ""
    server: str = ""
    model: str = ""
    version: int | None = None
    label: str | None = None
    signature: str | None = None

    def __str__(self) -> str:
        """For example `digits version 3, signature 'serving_default', over gRPC`."""
        said = self.model
        if self.version is not None:
            said += f" version {self.version}"
        elif self.label is not None:
            said += f" label {self.label!r}"
        parts = [said] if said else []
        if self.signature is not None:
            parts.append(f"signature {self.signature!r}")
        if self.protocol:
            parts.append(f"over {PROTOCOL_NAMES[self.protocol]}")
        return ", ".join(parts)


class ServingError(Exception):
    """A call failed.

    `text` is the server's own text (the client's, when the call never got there), `hint` what the client knows about
    the cause; `model`, `version` or `label`, `signature`, `protocol` and `server` say what was asked of whom.
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
        """The model asked for."""
        return self.call.model

    @property
    def version(self) -> int | None:
        """The version asked for; None when none was."""
        return self.call.version

    @property
    def label(self) -> str | None:
        """The version label asked for; None when none was."""
        return self.call.label

    @property
    def signature(self) -> str | None:
        """The signature asked for; None in calls that ask for none."""
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
        """In one line what failed, harmless on a terminal, and the hint in lines of its own."""
        where = printable(str(self.call))
        said = f"{self.code}: {printable(self.text)}"
        hint = self.hint.splitlines()
        more = [f"… ({len(hint) - MOST_LINES} more lines)"] if len(hint) > MOST_LINES else []
        return "\n".join([f"{where}: {said}" if where else said, *map(printable, hint[:MOST_LINES]), *more])


class InvalidArgument(ServingError):
    """A tensor, a name or a label that the server can't take."""

    code, http_status = "INVALID_ARGUMENT", 400


class FailedPrecondition(ServingError):
    """The signature asked for is not one of the model's, or the server's state forbids the call."""

    code, http_status = "FAILED_PRECONDITION", 400


class OutOfRange(ServingError):
    """A value past the end of what the model accepts; also how a truncated SavedModel fails to load."""

    code, http_status = "OUT_OF_RANGE", 400


class Unauthenticated(ServingError):
    """The server wants to know who asks."""

    code, http_status = "UNAUTHENTICATED", 401


class PermissionDenied(ServingError):
    """The server knows who asks, and refuses."""

    code, http_status = "PERMISSION_DENIED", 403


class NotFound(ServingError):
    """The server has no such model, or no such version of it."""

    code, http_status = "NOT_FOUND", 404


class AlreadyExists(ServingError):
    """What should be made is there."""

    code, http_status = "ALREADY_EXISTS", 409


class Aborted(ServingError):
    """Another change was in the way."""

    code, http_status = "ABORTED", 409


class ResourceExhausted(ServingError):
    """The server has no memory for it, or limits how much is asked."""

    code, http_status = "RESOURCE_EXHAUSTED", 429


class Cancelled(ServingError):
    """The call was given up before its answer came."""

    code, http_status = "CANCELLED", 499


class Unknown(ServingError):
    """The server failed and says no more."""

    code, http_status = "UNKNOWN", 500


class DataLoss(ServingError):
    """The server found its data damaged."""

    code, http_status = "DATA_LOSS", 500


class Internal(ServingError):
    """The server broke, or its answer can't be read."""

    code, http_status = "INTERNAL", 500


class Unimplemented(ServingError):
    """The protocol can't carry what was asked, or the server has no such method."""

    code, http_status = "UNIMPLEMENTED", 501


class Unavailable(ServingError):
    """Nobody listens there, or the server is full or shutting down."""

    code, http_status = "UNAVAILABLE", 503


class DeadlineExceeded(ServingError):
    """No answer within the timeout."""

    code, http_status = "DEADLINE_EXCEEDED", 504


_CLASSES: tuple[type[ServingError], ...] = (
    *(InvalidArgument, FailedPrecondition, OutOfRange, Unauthenticated, PermissionDenied, NotFound, AlreadyExists),
    *(Aborted, ResourceExhausted, Cancelled, Internal, DataLoss, Unknown, Unimplemented, Unavailable, DeadlineExceeded),
)
_BY_CODE = {kind.code: kind for kind in _CLASSES}
# Of the classes that share a status, the first is meant unless the text says otherwise.
_BY_STATUS = {kind.http_status: kind for kind in reversed(_CLASSES)}
# What statuses of proxies in between, and of an overloaded HTTP server, come to.
_BY_STATUS |= {408: DeadlineExceeded, 413: ResourceExhausted, 502: Unavailable}

# REST answers 400 for these; the codes are what gRPC answers to the same request.
_TEXTS: tuple[tuple[re.Pattern[str], type[ServingError]], ...] = (
    (re.compile(r'^Serving signature name: ".*" not found in signature def', re.S), FailedPrecondition),
    (re.compile(r"^End of sequence"), OutOfRange),
)
# What the server's texts don't say of the cause.
_HINTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"Unrecognized servable version label"),
        "no available version has this label: version_labels in the server's models.config give it, and the version "
        "must be loaded first",
    ),
    (
        re.compile(r"batch scheduling queue .* is full", re.S),
        "more is asked than the server computes: ask fewer at a time, or raise max_enqueued_batches in its "
        "batching_parameters_file",
    ),
    (
        re.compile(f"^{BUSY}$"),
        "all threads of the server are busy: send fewer requests at a time, or raise its --grpc_max_threads, by "
        "default 4 for each CPU; in models.yaml it is server.grpc_max_threads",
    ),
    (re.compile(r"(CLIENT: Received|Decompressed) message larger than max", re.S), RAISE_IT),
    (
        re.compile(r"message larger than max", re.S),
        "the limit is the server's, or a proxy's: --max_body_bytes of the embedded server, "
        "grpc.max_receive_message_length in --grpc_channel_arguments of TensorFlow Serving",
    ),
)
_UNREACHABLE = re.compile("failed to connect|handshake|DNS resolution|errors resolving|connect failed", re.I)
_QUOTED_CODE = re.compile(r"\bError: ([A-Z_]+): ")


def from_code(code: str, text: str, call: Call | None = None, hint: str = "") -> ServingError:
    """The error for a status code's name, for example `NOT_FOUND`; Unknown for a name that gRPC doesn't have."""
    return _BY_CODE.get(code, Unknown)(text, call, hint)


def from_grpc(error: grpc.RpcError, call: Call, *, tls: bool = False) -> ServingError:
    """The error for a failed gRPC call; `tls` is whether its connection is encrypted."""
    code = getattr(error, "code", None)
    details = getattr(error, "details", None)
    text = str(details() or "") if details else str(error)
    made = from_code(code().name if code else "UNKNOWN", text or "the server says no more", call)
    made.hint = known_hint(text)
    if isinstance(made, Unavailable) and not made.hint:
        hint = unreachable_hint if _UNREACHABLE.search(text) else broken_hint
        made.hint = hint(call, text, tls=tls)
    elif isinstance(made, Unimplemented) and not text:
        made.hint = f"{call.server} speaks gRPC, but has no TensorFlow Serving API"
    return made


def from_http(status: int, body: bytes, call: Call) -> ServingError:
    """The error for an HTTP answer that is not 2xx: TensorFlow Serving's `{"error": "..."}`, or some other page."""
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
            f"{call.server} did not answer as TensorFlow Serving's REST API does; is this its REST port?",
        )
    for pattern, better in _TEXTS:
        if pattern.match(text):
            return better(text, call, known_hint(text))
    quoted_code = _QUOTED_CODE.search(text)
    if quoted_code and kind.http_status == InvalidArgument.http_status:
        kind = _BY_CODE.get(quoted_code[1], kind)
    carried = kind is Unimplemented and "Conversion of JSON" in text
    return kind(text, call, "gRPC carries every element type" if carried else known_hint(text))


def known_hint(text: str) -> str:
    """What is known about the cause of an error from its text; nothing when it is none of those that are known."""
    return next((hint for pattern, hint in _HINTS if pattern.search(text)), "")
