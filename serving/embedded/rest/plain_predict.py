"""The predict request that most people send, `{"instances": [[1.5, …], …]}` of numbers alone, read in one go.

simdjson reads all numbers into one buffer, whatever lists they stand in: https://github.com/simdjson/simdjson. That is
several times as fast as making a Python object of each. The lists' shape comes from the brackets and commas between
the numbers. Whatever is not as plain as that, or not right, is left to `rest_parse` and `rest_request`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import simdjson

from tfserving.foundation.tensors import Array, DType
from tfserving.serving.embedded.core.signature import DEFAULT_SIGNATURE
from tfserving.serving.embedded.rest.json_tensor import convert

_WHITE = rb"[ \t\n\r]*"
_NAME = rb'"signature_name"' + _WHITE + rb":" + _WHITE + rb'"([^"\\\x00-\x1f]*)"' + _WHITE
_HEAD = re.compile(
    _WHITE + rb"\{" + _WHITE + rb"(?:" + _NAME + rb"," + _WHITE + rb')?"(instances|inputs)"' + _WHITE + rb":" + _WHITE
)
_TAIL = re.compile(_WHITE + rb"(?:," + _WHITE + _NAME + rb")?\}" + _WHITE)
_IN_NUMBERS = b"0123456789+-.eE \t\n\r"
_IN_LISTS = b"[],"
# More than that is left to those who know what to do beyond numpy's 64.
_DEEPEST = 32
# Below this every integer is a double.
_EXACT = 2.0**53


@dataclass(frozen=True)
class Plain:
    """A request of numbers in lists: for which signature, in rows or in columns, and the lists' text."""

    signature: str
    in_rows: bool
    text: bytes

    def read(self, dtype: DType | None) -> Array | None:
        """The numbers as an array of `dtype`; None when they are no such array, for whatever reason."""
        kind = dtype.numpy.kind if dtype else ""
        if dtype is None or kind not in "fiu":
            return None
        shape = _shape(self.text)
        if shape is None:
            return None
        try:
            parsed: Any = simdjson.Parser().parse(self.text)
            buffer = parsed.as_buffer(of_type="d" if kind == "f" else "i")
        except (ValueError, TypeError, RuntimeError):
            return None
        numbers = np.frombuffer(buffer, np.float64 if kind == "f" else np.int64)
        if len(numbers) != prod(shape) or (kind == "f" and np.abs(numbers).max() >= _EXACT):
            return None
        array = convert(numbers, dtype)
        return None if array is None else array.reshape(shape)


def read_plain(body: bytes) -> Plain | None:
    """What `body` says, if it looks like a request of numbers in lists."""
    head = _HEAD.match(body)
    end = body.rfind(b"]") + 1
    if head is None or end <= head.end():
        return None
    tail = _TAIL.fullmatch(body, end)
    if tail is None or (head[1] is not None and tail[1] is not None):
        return None
    try:
        name = (head[1] or tail[1] or b"").decode()
    except UnicodeDecodeError:
        return None
    return Plain(name or DEFAULT_SIGNATURE, head[2] == b"instances", body[head.end() : end])


def _shape(text: bytes) -> tuple[int, ...] | None:
    """The shape of the lists in `text`, if all that stand beside each other have the same.

    An empty list looks like one of a single number here.
    """
    lists = text.translate(None, _IN_NUMBERS)
    depth = len(lists) - len(lists.lstrip(b"["))
    if not 0 < depth <= _DEEPEST or lists.translate(None, _IN_LISTS):
        return None
    shape: list[int] = []
    one = b""
    for level in range(1, depth + 1):
        # Where the first list of this level ends: nowhere before do so many lists end.
        size = lists.find(b"]" * level) + level - (depth - level)
        count = (size - 1) // (len(one) + 1)
        if count < 1:
            return None
        shape.append(count)
        one = b"[" + b",".join([one] * count) + b"]"
        if len(one) > len(lists):
            return None
    return tuple(reversed(shape)) if one == lists else None
