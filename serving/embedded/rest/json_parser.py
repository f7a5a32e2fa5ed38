"""JSON as TensorFlow Serving's parser reads it.

It accepts more than JSON (NaN, Infinity, anything after the first complete value, strings that are not UTF-8), and its
errors have their own texts and offsets. orjson reads plain JSON. `_Parser` reads everything else, with a stack like
RapidJSON's iterative parser: https://rapidjson.org/md_doc_internals.html

A document consists of dict (Members, when a name may occur twice), list, str, int, float, bool and None, and of bytes
for a string that is not Unicode. An integer beyond 64 bits is a float.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson

from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.rest.http import RefusedError

BOM = b"\xef\xbb\xbf"

_WHITE = re.compile(rb"[ \t\n\r]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NOT_A_NUMBER = re.compile(rb"-?(?:NaN|Inf(?:inity)?)")
_SPECIAL = re.compile(rb'["\\\x00-\x1f]')
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
# The most that one byte of a document can count.
_MOST_COUNTED = 2
# How many times slower `_Parser` is than orjson.
SLOWER = 4
_ESCAPES = {b'"': b'"', b"\\": b"\\", b"/": b"/", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_LITERALS = {b"t": (b"true", True), b"f": (b"false", False), b"n": (b"null", None)}
_LARGEST_EXPONENT = 308
_HIGH_SURROGATES = range(0xD800, 0xDC00)
_LOW_SURROGATES = range(0xDC00, 0xE000)

_MISS_NAME = "Missing a name for object member."
_MISS_COLON = "Missing a colon after a name of object member."
_MISS_COMMA_OR_BRACE = "Missing a comma or '}' after an object member."
_MISS_COMMA_OR_BRACKET = "Missing a comma or ']' after an array element."
_INVALID = "Invalid value."


def parse(body: bytes, most: int = 0) -> Any:
    """Returns the document at the start of `body`. Raises RequestError with TensorFlow Serving's text and offset.

    Raises RefusedError, before it creates values, when there may be more than `most`; 0 is no limit.
    """
    _check_values(body, most)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _parse_slowly(body, most)
    # Of two members with the same name orjson keeps the last. Each member has a colon, so the counts show this.
    if isinstance(document, dict) and (colons := body.count(b":")) > len(document) and colons != _members(document):
        del document
        return _parse_slowly(body, most)
    return document


def _parse_slowly(body: bytes, most: int) -> Any:
    _check_values(
        body, most // SLOWER, "in a document that is not plain JSON: NaN, a duplicate name, or text after the end"
    )
    return _Parser(body).parse()


def _check_values(body: bytes, most: int, which: str = "") -> None:
    """Raises RefusedError when `body` may have more than `most` values.

    Every value but the first follows a comma, a colon or a bracket. Strings and names, which are larger than numbers,
    count as four more. Characters inside strings are counted, too: excluding them would take as long as parsing.
    """
    if not most or _MOST_COUNTED * len(body) <= most:
        return
    count = 2 * body.count(b'"') + body.count(b"\\")
    for mark in (b",", b"[", b"{", b":"):
        count += body.count(mark)
    if count > most:
        what = " ".join(("values", which)) if which else "values"
        raise RefusedError(
            413, f"The JSON document has more than {most} {what} (--max_json_values; a string counts as four)"
        )


def _members(document: Any) -> int:
    count, waiting = 0, [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            count += len(value)
            waiting.extend(value.values())
        elif isinstance(value, list) and value and not isinstance(value[0], (int, float)):
            waiting.extend(value)
    return count


class Members(dict[Any, Any]):
    """An object in which names may occur twice. The dict has the first of each; `all` has all members, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[Any, Any]] = []


def members_of(value: dict[Any, Any]) -> Iterable[tuple[Any, Any]]:
    """Returns all members of an object, including those with a duplicate name."""
    return value.all if isinstance(value, Members) else value.items()


class _Parser:
    """Reads one value. Open arrays and objects are on a stack, so the nesting depth is not limited by recursion."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = len(BOM) if body.startswith(BOM) else 0

    def parse(self) -> Any:
        if not self._body:
            raise RequestError(Code.INVALID_ARGUMENT, "JSON Parse error: The document is empty")
        if self._next() in (b"", b"\0", b",", b":", b"]", b"}"):
            raise self._error("The document is empty.")
        opened: list[dict[Any, Any] | list[Any]] = []
        names: list[Any] = []
        while True:
            value = self._value(opened, names)
            if value is _OPENED:
                continue
            while opened:
                self._put(opened[-1], names, value)
                if not self._closes(opened[-1], names):
                    break
                value = opened.pop()
            else:
                return value

    def _value(self, opened: list[dict[Any, Any] | list[Any]], names: list[Any]) -> Any:
        """Returns the value that starts here, or _OPENED for an array or object that is not empty."""
        token = self._next()
        if token == b"[":
            self._at += 1
            if self._next() == b"]":
                self._at += 1
                return []
            opened.append([])
            return _OPENED
        if token == b"{":
            self._at += 1
            if self._next() == b"}":
                self._at += 1
                return {}
            names.append(self._name())
            opened.append(Members())
            return _OPENED
        return self._scalar(token)

    def _scalar(self, token: bytes) -> Any:
        if token == b'"':
            return self._string()
        if token in _LITERALS:
            return self._literal(*_LITERALS[token])
        return self._number()

    def _put(self, container: dict[Any, Any] | list[Any], names: list[Any], value: Any) -> None:
        if isinstance(container, list):
            container.append(value)
            return
        name = names.pop()
        if isinstance(container, Members):
            container.all.append((name, value))
        container.setdefault(name, value)

    def _closes(self, container: dict[Any, Any] | list[Any], names: list[Any]) -> bool:
        """Reads the delimiter after an element; returns True at the end of the container."""
        token = self._next()
        is_list = isinstance(container, list)
        if token == (b"]" if is_list else b"}"):
            self._at += 1
            return True
        if token != b",":
            raise self._error(_MISS_COMMA_OR_BRACKET if is_list else _MISS_COMMA_OR_BRACE)
        self._at += 1
        if not is_list:
            names.append(self._name())
        return False

    def _name(self) -> Any:
        if self._next() != b'"':
            raise self._error(_MISS_NAME)
        name = self._string()
        if self._next() != b":":
            raise self._error(_MISS_COLON)
        self._at += 1
        return name

    def _next(self) -> bytes:
        match = _WHITE.match(self._body, self._at)
        self._at = match.end() if match else self._at
        return self._body[self._at : self._at + 1]

    def _literal(self, text: bytes, value: Any) -> Any:
        for character in text:
            if self._body[self._at : self._at + 1] != bytes((character,)):
                raise self._error(_INVALID)
            self._at += 1
        return value

    def _number(self) -> int | float:
        match = _NUMBER.match(self._body, self._at)
        if match is None:
            return self._not_a_number()
        start, self._at = self._at, match.end()
        rest = self._body[self._at : self._at + 2]
        if match[1] is None and match[2] is None and rest[:1] == b".":
            self._at += 1
            raise self._error("Miss fraction part in number.")
        if match[2] is None and rest[:1] in (b"e", b"E"):
            self._at += 2 if rest[1:] in (b"+", b"-") else 1
            raise self._error("Miss exponent in number.")
        text = match[0].decode()
        if match[1] is None and match[2] is None:
            if len(text) <= 20:  # noqa: PLR2004 - the digits of 64 bits, and a sign
                number = int(text)
                if -(2**63) <= number < 2**64:
                    return number
            if float(text) in (float("inf"), float("-inf")):
                raise self._error("Number too big to be stored in double.", start)
            return float(text)
        digits = len(match[1]) - 1 if match[1] else 0
        if match[2] and match[2][1:2] != b"-" and int(match[2][1:][:12]) > _LARGEST_EXPONENT + digits:
            raise self._error("Number too big to be stored in double.", start)
        return float(text)

    def _not_a_number(self) -> float:
        match = _NOT_A_NUMBER.match(self._body, self._at)
        if match is not None and not (match[0].endswith(b"Inf") and self._body[match.end() : match.end() + 1] == b"i"):
            self._at = match.end()
            return float(match[0].decode())
        if self._body[self._at : self._at + 1] == b"-":
            self._at += 1
        for text in (b"NaN", b"Infinity"):
            if self._body[self._at : self._at + 1] == text[:1]:
                return float(self._literal(text, 0))
        raise self._error(_INVALID)

    def _string(self) -> str | bytes:
        self._at += 1
        parts = []
        while True:
            end = _SPECIAL.search(self._body, self._at)
            stop = end.start() if end else len(self._body)
            parts.append(self._body[self._at : stop])
            self._at = stop
            token = self._body[self._at : self._at + 1]
            if token == b'"':
                self._at += 1
                break
            if token == b"\\":
                parts.append(self._escape())
            elif token in (b"", b"\0"):
                raise self._error("Missing a closing quotation mark in string.")
            else:
                raise self._error("Invalid escape character in string.")
        value = b"".join(parts)
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value

    def _escape(self) -> bytes:
        start = self._at
        token = self._body[start + 1 : start + 2]
        if token in _ESCAPES:
            self._at += 2
            return _ESCAPES[token]
        if token != b"u":
            raise self._error("Invalid escape character in string.")
        point = self._hex(start)
        if point in _HIGH_SURROGATES:
            if self._body[self._at : self._at + 2] != b"\\u":
                raise self._error("The surrogate pair in string is invalid.", start)
            low = self._hex(start)
            if low not in _LOW_SURROGATES:
                raise self._error("The surrogate pair in string is invalid.", start)
            point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00)
        return chr(point).encode("utf-8", "surrogatepass")

    def _hex(self, start: int) -> int:
        match = _HEX.match(self._body, self._at + 2)
        if match is None:
            raise self._error("Incorrect hex digit after \\u escape in string.", start)
        self._at = match.end()
        return int(match[0], 16)

    def _error(self, text: str, at: int | None = None) -> RequestError:
        where = self._at if at is None else at
        return RequestError(Code.INVALID_ARGUMENT, f"JSON Parse error: {text} at offset: {where}")


_OPENED = object()
