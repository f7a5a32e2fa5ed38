"""JSON text in the format of TensorFlow Serving: numbers, strings, and values in errors."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.rest.json_parser import members_of

# An error cuts a value after the token that exceeds this many bytes, and cuts long strings.
LONGEST_SHOWN = 256
LONGEST_STRING = 2**14
# The numbers that are converted in one call, during which no other thread runs.
_AT_ONCE = 2**14

_SPECIAL = re.compile(rb'[\x00-\x1f"\\]')
_SHORT = {b'"': b'\\"', b"\\": b"\\\\", b"\b": b"\\b", b"\f": b"\\f", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}
_NOT_FINITE = {b"nan": b"NaN", b"-nan": b"NaN", b"inf": b"Infinity", b"-inf": b"-Infinity"}
_FLOAT32 = np.dtype(np.float32)
# The smallest normal numbers.
TINY = {np.dtype(kind): float(np.finfo(kind).tiny) for kind in (np.float16, np.float32, np.float64)}


def quote(text: str | bytes) -> bytes:
    """Returns `text` as a JSON string. Bytes that are not UTF-8 stay unchanged."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return b'"' + _SPECIAL.sub(_escape, data) + b'"'


def _escape(match: re.Match[bytes]) -> bytes:
    return _SHORT.get(match[0]) or b"\\u%04X" % ord(match[0])


def float_texts(values: Array) -> list[bytes]:
    """Returns the text of each element of a float array: six digits if they are exact, else all digits.

    https://github.com/tensorflow/serving/blob/r2.20/tensorflow_serving/util/json_tensor.cc
    """
    flat = values.ravel()
    if len(flat) <= _AT_ONCE:
        return _float_texts(flat)
    return [text for at in range(0, len(flat), _AT_ONCE) for text in _float_texts(flat[at : at + _AT_ONCE])]


def _float_texts(flat: Array) -> list[bytes]:
    numbers = flat.tolist()
    text = b"%.6g " * len(numbers) % tuple(numbers)
    # A search for denormals takes longer. Their exponents have these digits.
    if (b"e-3" in text or b"e-4" in text) and (flushed := flush_denormals(flat)) is not flat:
        return _float_texts(flushed)
    texts = text.split()
    read_back: Iterable[float] = map(float, texts)
    every_digit = b"%.17g"
    if flat.dtype == _FLOAT32:
        read_back, every_digit = array("f", read_back), b"%.9g"
    texts = [
        text if same == number else every_digit % number
        for text, same, number in zip(texts, read_back, numbers, strict=True)
    ]
    return [text if b"." in text or b"e" in text else _NOT_FINITE.get(text) or text + b".0" for text in texts]


def flush_denormals(values: Array) -> Array:
    """Returns `values` with denormal floats as zero of the same sign, as TensorFlow Serving's REST threads do."""
    tiny = TINY.get(values.dtype)
    if tiny is None:
        return values
    # Nearly all arrays have none. Counting takes a fifth of the time of finding them.
    size = np.abs(values)
    if np.count_nonzero(size >= tiny) + np.count_nonzero(size == 0) == size.size:
        return values
    denormal = (size < tiny) & (size != 0)
    # A NaN also changes the count.
    return np.where(denormal, np.copysign(values.dtype.type(0), values), values) if denormal.any() else values


def show(value: Any) -> str:
    """Returns `value` for an error: indented objects, arrays on one line, cut after LONGEST_SHOWN bytes."""
    shown = bytearray()
    for token in _tokens(value):
        shown += token
        if len(shown) > LONGEST_SHOWN:
            break
    return shown.decode("utf-8", "surrogateescape")


def _tokens(value: Any) -> Iterator[bytes]:
    """Yields the text of `value`, token by token. It ends at a number without a JSON text."""
    waiting: list[Any] = [value]
    level = 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, _Text):
            level += item.deeper
            yield item.text + (b"\n" + b"    " * level if item.new_line else b"")
        elif isinstance(item, dict):
            if not item:
                yield b"{}"
                continue
            waiting.append(_Text(b"}"))
            waiting.append(_Text(b"", -1, new_line=True))
            for index, (name, member) in reversed(list(enumerate(islice(members_of(item), LONGEST_SHOWN)))):
                waiting += (
                    member,
                    _Text(quote(name[:LONGEST_STRING]) + b": "),
                    _Text(b"," if index else b"{", 0 if index else 1, new_line=True),
                )
        elif isinstance(item, list):
            # Arrays count as a level for the objects in them.
            waiting.append(_Text(b"]", -1))
            shown = item[: LONGEST_SHOWN + 1]
            for index, element in reversed(list(enumerate(shown))):
                waiting += (element, _Text(b", ")) if index else (element,)
            waiting.append(_Text(b"[", 1))
        elif isinstance(item, float) and not math.isfinite(item):
            return
        else:
            yield _scalar(item)


class _Text:
    def __init__(self, text: bytes, deeper: int = 0, *, new_line: bool = False) -> None:
        self.text = text
        self.deeper = deeper
        self.new_line = new_line


def _scalar(value: Any) -> bytes:
    if value is None:
        return b"null"
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, (str, bytes)):
        return quote(value[:LONGEST_STRING])
    return str(value).encode() if isinstance(value, int) else _shortest(value)


def _shortest(value: float) -> bytes:
    """Returns the shortest digits of `value` in RapidJSON's format: 100.0, 0.00001, 1e39, 1.5e-7."""
    sign = "-" if math.copysign(1, value) < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if not digits:
        return f"{sign}0.0".encode()
    if len(digits) <= point <= 21:  # noqa: PLR2004 - RapidJSON's own limit
        text = digits.ljust(point, "0") + ".0"
    elif 0 < point <= 21:  # noqa: PLR2004
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:  # noqa: PLR2004
        text = "0." + "0" * -point + digits
    else:
        text = digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{point - 1}"
    return (sign + text).encode()
