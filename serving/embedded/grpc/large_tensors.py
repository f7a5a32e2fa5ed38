"""Reads a PredictRequest with large tensors without a copy of their numbers.

Protobuf copies `tensor_content` when it parses a message, and again when Python reads the field, both with Python's
lock. So that field is cut out of large tensors before the message is parsed, and read in the message's own bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tfserving.foundation.messages import PredictRequest
from tfserving.foundation.tensors import STRING
from tfserving.foundation.varint import read_varint
from tfserving.serving.embedded.grpc.tensor_proto import field

# Smaller messages are parsed as they are.
LARGE_BYTES = 1 << 16
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Field numbers: of PredictRequest, of the entries of a map, and of TensorProto.
_INPUTS, _KEY, _VALUE, _CONTENT = 2, 1, 2, 4


class Cut(NamedTuple):
    """A TensorProto without its `tensor_content`, and that content."""

    proto: Any
    content: memoryview

    def whole(self) -> Any:
        """Returns the TensorProto with its content, which is copied."""
        self.proto.tensor_content = bytes(self.content)
        return self.proto


class LargeRequest(NamedTuple):
    """A PredictRequest without large contents, and its inputs: TensorProtos, or `Cut`."""

    message: Any
    inputs: Mapping[str, Any]

    @property
    def model_spec(self) -> Any:
        """See PredictRequest."""
        return self.message.model_spec

    @property
    def output_filter(self) -> Any:
        """See PredictRequest."""
        return self.message.output_filter

    def HasField(self, name: str) -> bool:  # noqa: N802 - as a message has it
        """Return whether the message has a field."""
        return bool(self.message.HasField(name))


def parse(data: bytes) -> Any:
    """Returns a PredictRequest, or a LargeRequest of the same content. Raises DecodeError for invalid bytes."""
    if len(data) < LARGE_BYTES:
        return PredictRequest.FromString(data)
    try:
        rest, contents, entries = _cut(data)
    except (IndexError, _UnusualError):
        return PredictRequest.FromString(data)
    if not contents:
        return PredictRequest.FromString(data)
    request = PredictRequest.FromString(rest)
    # Fewer inputs than entries: a name is there twice, and the last entry counts.
    if len(request.inputs) != entries:
        return PredictRequest.FromString(data)
    inputs = dict(request.inputs)
    for name, content in contents.items():
        # Strings have another form, which is read from the message.
        cut = Cut(inputs[name], content)
        inputs[name] = cut.whole() if inputs[name].dtype == STRING.number else cut
    return LargeRequest(request, inputs)


class _UnusualError(Exception):
    """A message that is not written as clients write it, but may be valid."""


def _cut(data: bytes) -> tuple[bytes, dict[str, memoryview], int]:
    """Returns the message without its large contents, these by the names of inputs, and the number of inputs.

    Raises IndexError or _UnusualError for a message that must be parsed as it is.
    """
    view = memoryview(data)
    parts: list[bytes | memoryview] = []
    contents: dict[str, memoryview] = {}
    at = kept = entries = 0
    while at < len(data):
        began = at
        number, start, at = _next(data, at, len(data))
        entries += number == _INPUTS
        if number != _INPUTS or at - start < LARGE_BYTES:
            continue
        key = tensor = None
        inner = start
        while inner < at:
            found, begin, inner = _next(data, inner, at)
            if found == _KEY and key is None:
                key = data[begin:inner]
            elif found == _VALUE and tensor is None:
                tensor = _cut_tensor(data, begin, inner)
            else:
                raise _UnusualError
        if key is None or tensor is None:
            raise _UnusualError
        content, others = tensor
        if content is None:
            continue
        name = key.decode(errors="replace")
        if name in contents:
            raise _UnusualError
        contents[name] = view[content]
        parts += (view[kept:began], field(_INPUTS, field(_KEY, key) + field(_VALUE, others)))
        kept = at
    parts.append(view[kept:])
    return b"".join(parts), contents, entries


def _cut_tensor(data: bytes, at: int, end: int) -> tuple[slice | None, bytes]:
    """Returns where the large content of the TensorProto between `at` and `end` is, and its other fields."""
    content, others = None, b""
    while at < end:
        began = at
        number, start, at = _next(data, at, end)
        if number != _CONTENT or (at - start < LARGE_BYTES and content is None):
            others += data[began:at]
        elif content is None:
            content = slice(start, at)
        else:
            raise _UnusualError
        if content is not None and len(others) > LARGE_BYTES:
            raise _UnusualError
    return content, others


def _next(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Returns the number of the field at `at`, and where its value begins and ends; 0 if it isn't bytes."""
    tag, at = read_varint(data, at)
    wire = tag & 7
    number = 0
    if wire == _BYTES:
        size, start = read_varint(data, at)
        number, at = tag >> 3, start + size
    elif wire == _VARINT:
        start, (_, at) = at, read_varint(data, at)
    elif wire in (_FIXED32, _FIXED64):
        start, at = at, at + (4 if wire == _FIXED32 else 8)
    else:
        raise IndexError
    if at > end:
        raise IndexError
    return number, start, at
