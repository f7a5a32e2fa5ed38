"""What one call asks: a model and its signature, until when, with which metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from tfserving.clients.errors import Call

DEFAULT_SIGNATURE = "serving_default"
_METADATA_NAME, _METADATA_VALUE = re.compile(r"[0-9A-Za-z_.-]+"), re.compile(r"[ -~]*")


class Asked(NamedTuple):
    """What one call asks, until when, and what goes along with everything it sends."""

    call: Call
    deadline: float
    metadata: Mapping[str, str] | None = None

    def without_signature(self) -> Asked:
        """The same, of the model as a whole."""
        return self._replace(call=self.call._replace(signature=None))

    @property
    def signature(self) -> str:
        """The name of the signature that is asked for."""
        return self.call.signature or DEFAULT_SIGNATURE


def unsendable(metadata: Mapping[str, str]) -> str:
    """What in `metadata` neither gRPC nor HTTP can carry; nothing if they can.

    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests
    """
    for name, value in metadata.items():
        if not _METADATA_NAME.fullmatch(name) or name.lower().endswith("-bin"):
            return f"metadata can't be called {name!r}: letters, digits and _-. make its name, which -bin doesn't end"
        if not (isinstance(value, str) and _METADATA_VALUE.fullmatch(value)):
            return f"metadata {name!r} can't be sent: its value is printable ASCII"
    return ""
