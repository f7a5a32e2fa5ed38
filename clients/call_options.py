"""The options of one call: the model and signature that it is for, its deadline and its metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from tfserving.clients.errors import Call

DEFAULT_SIGNATURE = "serving_default"
_METADATA_NAME, _METADATA_VALUE = re.compile(r"[0-9A-Za-z_.-]+"), re.compile(r"[ -~]*")


class CallOptions(NamedTuple):
    """The options of one call.

    `deadline` is a time of `time.monotonic`. `metadata` is sent with every request of the call.
    """

    call: Call
    deadline: float
    metadata: Mapping[str, str] | None = None

    def without_signature(self) -> CallOptions:
        """Return the same options for the whole model."""
        return self._replace(call=self.call._replace(signature=None))

    @property
    def signature(self) -> str:
        """The name of the signature that the call uses."""
        return self.call.signature or DEFAULT_SIGNATURE


def unsendable(metadata: Mapping[str, str]) -> str:
    """Return why gRPC and HTTP can't carry `metadata`; "" if they can.

    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests
    """
    for name, value in metadata.items():
        if not _METADATA_NAME.fullmatch(name) or name.lower().endswith("-bin"):
            return f"metadata {name!r}: a name has letters, digits, '_', '-' and '.', and doesn't end with '-bin'"
        if not (isinstance(value, str) and _METADATA_VALUE.fullmatch(value)):
            return f"metadata {name!r}: a value must be printable ASCII"
    return ""
