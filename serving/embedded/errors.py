"""The errors of this server, independent of the protocols.

EmbeddedError
├── StartError    the server can't start: a port, a configuration, a model
└── RequestError  one request fails; carries the Code that both protocols translate
"""

from __future__ import annotations

import enum
from typing import Any


class Code(enum.IntEnum):
    """The canonical status codes; gRPC and TensorFlow share the numbers.

    https://github.com/grpc/grpc/blob/master/doc/statuscodes.md
    """

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class EmbeddedError(Exception):
    """The base class of this server's errors."""


class StartError(EmbeddedError):
    """The server can't start. The text names the part, the value and the reason."""


class RequestError(EmbeddedError):
    """A request that failed.

    `text` is the text of TensorFlow Serving. `explanation`, if not empty, adds what was sent and what is expected.
    """

    def __init__(self, code: Code, text: str, explanation: str = "") -> None:
        super().__init__("; ".join(part for part in (text, explanation) if part))
        self.code = code
        self.text = text
        self.explanation = explanation

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.text, self.explanation)

    def client_text(self, *, explain: bool) -> str:
        """Returns the text for the client, with or without the explanation."""
        return str(self) if explain else self.text
