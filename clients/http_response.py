"""The body of an HTTP response, read piece by piece: inflated, and limited in size."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from tfserving.clients.errors import Call, Internal, ResourceExhausted, ServingError, from_http
from tfserving.clients.limits import MOST_ERROR_BYTES, RAISE_IT

_GZIP = zlib.MAX_WBITS | 16
# Inflated at once, since a few bytes can inflate to gigabytes.
_PIECE = 1024 * 1024


class ResponseBody:
    """The body of a response with `status` and `headers`. It has at most `largest` bytes, as received and inflated."""

    def __init__(self, status: int, headers: Iterable[tuple[bytes, bytes]], largest: int, call: Call) -> None:
        self._status, self._call = status, call
        self._good = 200 <= status < 300  # noqa: PLR2004 - HTTP's successes
        self._largest = largest if self._good else min(largest, MOST_ERROR_BYTES)
        self._pieces: list[bytes] = []
        self._came = self._size = 0
        named = {name.lower(): value for name, value in headers}
        encoding = named.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in (b"identity", b"gzip", b"x-gzip", b""):
            raise Internal(
                f"the response has the content encoding {encoding.decode('latin-1')!r}, which was not requested", call
            )
        self._inflating = zlib.decompressobj(_GZIP) if b"gzip" in encoding else None
        length = named.get(b"content-length", b"")
        if self._good and length.isdigit() and int(length[:20]) > largest:
            raise self._too_large(f"it has {int(length[:20])} bytes")

    def add(self, piece: bytes) -> bool:
        """Add the next bytes received, and return whether more are needed.

        Raises ResourceExhausted for a response above the limit; an error response is cut there.
        """
        self._came += len(piece)
        for part in self._inflated(piece) if self._inflating else [piece]:
            self._size += len(part)
            self._pieces.append(part)
            if self._size > self._largest:
                break
        if max(self._came, self._size) <= self._largest:
            return True
        if self._good:
            more = f"{self._came} bytes of gzip inflate to more" if self._inflating else "more bytes were received"
            raise self._too_large(more)
        return False

    def whole(self) -> bytes:
        """Return the whole body. Raises the ServingError of a response other than 2xx."""
        body = b"".join(self._pieces)
        if not self._good:
            raise from_http(self._status, body[: self._largest], self._call)
        if self._inflating and not self._inflating.eof:
            raise Internal("the response's gzip data is truncated", self._call)
        return body

    def _inflated(self, piece: bytes) -> Iterable[bytes]:
        inflating = self._inflating
        assert inflating is not None
        if inflating.eof:
            raise Internal("the response has bytes after the end of its gzip data", self._call)
        try:
            while part := inflating.decompress(piece, _PIECE):
                yield part
                piece = inflating.unconsumed_tail
        except zlib.error as error:
            raise Internal(f"the response is not gzip data: {error}", self._call) from None

    def _too_large(self, size: str) -> ServingError:
        return ResourceExhausted(
            f"the response is too large: {size}, the limit is {self._largest}", self._call, RAISE_IT
        )
