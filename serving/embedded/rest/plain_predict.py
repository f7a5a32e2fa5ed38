"""A fast path for the most common predict request, `{"instances": [[1.5, …], …]}` with only numbers.

simdjson reads all numbers into one buffer, independent of the lists: https://github.com/simdjson/simdjson. That is
several times as fast as creating a Python object for each. The shape follows from the brackets and commas between the
numbers. All other requests, and invalid ones, are left to `json_parser` and `predict_request`.

Most of the time would go into new memory from the operating system, so simdjson's memory is kept for the next request.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import simdjson

from tfserving.foundation.tensors import Array, DType
from tfserving.serving.embedded.core.signature import DEFAULT_SIGNATURE
from tfserving.serving.embedded.rest.json_tensor import convert

# A limit, because an unlimited pattern would be tried from each position of the white space.
_WHITE = rb"[ \t\n\r]{0,256}"
_NAME = rb'"signature_name"' + _WHITE + rb":" + _WHITE + rb'"([^"\\\x00-\x1f]{0,1024})"' + _WHITE
_HEAD = re.compile(
    _WHITE + rb"\{" + _WHITE + rb"(?:" + _NAME + rb"," + _WHITE + rb')?"(instances|inputs)"' + _WHITE + rb":" + _WHITE
)
_TAIL = re.compile(_WHITE + rb"(?:," + _WHITE + _NAME + rb")?\}" + _WHITE)
_IN_NUMBERS = b"0123456789+-.eE \t\n\r"
# Deeper lists are left to the code that handles more than numpy's 64 dimensions.
_DEEPEST = 32
# The bytes of a large request that are parsed at a time. The memory that is kept is at most some ten times as much.
_PART = 2**22
# Below this a double represents every integer exactly.
_EXACT = 2.0**53

# Python runs no other thread while simdjson parses, so one parser is enough.
_parser = simdjson.Parser()
_parsing = threading.Lock()


@dataclass(frozen=True)
class Plain:
    """A request of numbers in lists: its signature, its format, and the range of the lists in the body."""

    signature: str
    in_rows: bool
    body: bytes
    start: int
    end: int

    def read(self, dtype: DType | None) -> Array | None:
        """Returns the numbers as an array of `dtype`; None when that is not possible."""
        kind = dtype.numpy.kind if dtype else ""
        if dtype is None or kind not in "fiu":
            return None
        lists = self.body.translate(None, _IN_NUMBERS)
        before, after = self.body[: self.start], self.body[self.end :]
        shape = _shape(lists[len(before.translate(None, _IN_NUMBERS)) : -len(after.translate(None, _IN_NUMBERS))])
        if shape is None:
            return None
        try:
            numbers = self._numbers(dtype, prod(shape))
        except (ValueError, TypeError, RuntimeError):
            return None
        return None if numbers is None else numbers.reshape(shape)

    def _numbers(self, dtype: DType, count: int) -> Array | None:
        """Returns the `count` numbers, parsed in parts, since simdjson takes many times the memory of its input.

        Raises ValueError, TypeError or RuntimeError when they are not numbers.
        """
        body, start, stop = self.body, self.start, self.end
        if stop - start <= _PART:
            found = _parse(body, dtype, "instances" if self.in_rows else "inputs")
            return found if found is not None and len(found) == count else None
        numbers = np.empty(count, dtype.numpy)
        filled = depth = 0
        while start < stop:
            end = body.find(b",", start + _PART, stop)
            part = body[start : end if end >= 0 else stop]
            lists = part.translate(None, _IN_NUMBERS)
            # Adds the brackets of the lists around the part.
            before, depth = depth, depth + lists.count(b"[") - lists.count(b"]")
            if depth < 0:
                return None
            found = _parse(b"[" * before + part + b"]" * depth, dtype)
            if found is None or filled + len(found) > count:
                return None
            numbers[filled : filled + len(found)] = found
            filled += len(found)
            start += len(part) + 1
        return numbers if filled == count and not depth else None


def _parse(text: bytes, dtype: DType, name: str = "") -> Array | None:
    """Returns the numbers in a JSON document of lists, or in its member `name`; None when `dtype` can't hold them."""
    is_float = dtype.numpy.kind == "f"
    with _parsing:
        # simdjson has no type hints.
        parsed: Any = None
        try:
            parsed = _parser.parse(text)
            if name:
                parsed = parsed[name]
            buffer = parsed.as_buffer(of_type="d" if is_float else "i")
        finally:
            # The parser allows one document at a time.
            del parsed
    numbers = np.frombuffer(buffer, np.float64 if is_float else np.int64)
    if is_float and len(numbers) and max(numbers.max(), -numbers.min()) >= _EXACT:
        return None
    return convert(numbers, dtype)


def read_plain(body: bytes) -> Plain | None:
    """Returns the request in `body`, if it looks like numbers in lists; else None."""
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
    return Plain(name or DEFAULT_SIGNATURE, head[2] == b"instances", body, head.end(), end)


def _shape(lists: bytes) -> tuple[int, ...] | None:
    """Returns the shape of `lists`, a text without its numbers, if it is regular; else None.

    An empty list looks like a list of one number here.
    """
    depth = len(lists) - len(lists.lstrip(b"["))
    if not 0 < depth <= _DEEPEST:
        return None
    shape: list[int] = []
    # The text of one list of the previous level, without the brackets of `wraps` levels that contain one list each.
    one = b""
    wraps = at = 0
    for level in range(1, depth + 1):
        # The end of the first list of this level, where this many lists end for the first time.
        at = lists.find(b"]" * level, at) if level < depth else len(lists) - depth
        size = at + level - (depth - level)
        count = (size - 1) // (len(one) + 2 * wraps + 1)
        if at < 0 or count < 1:
            return None
        shape.append(count)
        if count == 1 and one:
            wraps += 1
            continue
        one = b"[" * wraps + one + b"]" * wraps
        # bytes.join would take eighty bytes for each element.
        one = b"[" + (one + b",") * (count - 1) + one + b"]"
        wraps = 0
        if len(one) > len(lists):
            return None
    return tuple(reversed(shape)) if b"[" * wraps + one + b"]" * wraps == lists else None
