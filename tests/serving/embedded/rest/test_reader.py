"""What of HTTP becomes a request, in whatever parts it comes."""

from __future__ import annotations

import pytest

from tfserving.serving.embedded.rest.http import RefusedError, Request
from tfserving.serving.embedded.rest.limits import Limits
from tfserving.serving.embedded.rest.reader import Reader

BODY = b'{"instances": [1]}'
CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:1], BODY[1:7], BODY[7:])) + b"0\r\n"
H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    b"upgrade: foo\r\nconnection: keep-alive, upgrade\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
)
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS
LINE = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: test\r\n"


def read(data: bytes, size: int = 2**20, limits: Limits | None = None) -> list[Request]:
    """The requests in `data`, which comes in parts of `size` bytes."""
    reader = Reader(limits or Limits(), "client", lambda: None, lambda _: True)
    for start in range(0, len(data), size):
        part = memoryview(data[start : start + size])
        while part and not reader.last:
            part = part[reader.feed(part) :]
    return list(reader.requests)


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
@pytest.mark.parametrize("wish", [b"", *H2C], ids=["none", "h2c", "other", "websocket"])
@pytest.mark.parametrize(
    "rest", [LENGTH, CHUNKED + b"\r\n", CHUNKED + b"Trailer: x\r\n\r\n"], ids=["", "chunks", "trailer"]
)
def test_a_wish_for_another_protocol_is_ignored_and_the_body_read(wish: bytes, rest: bytes, size: int) -> None:
    one = LINE + wish + rest
    plain = LINE + LENGTH

    requests = read(one * 3 + plain, size)

    assert [(found.method, found.target, found.body) for found in requests] == [
        ("POST", b"/v1/models/m:predict", BODY)
    ] * 4
    assert not any({b"upgrade", b"http2-settings", b"trailer"} & found.headers.keys() for found in requests)


def test_a_wish_without_a_body_is_ignored_too() -> None:
    data = b"GET /healthz HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert [found.target for found in read(data * 2)] == [b"/healthz"] * 2


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"FOO / HTTP/1.1\r\n\r\n", 501),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (LINE + b"Transfer-Encoding: chunked\r\n" + LENGTH, 400),
        (LINE + b"Content-Length: 1\r\n" + LENGTH, 400),
        (LINE + H2C[0] + b"Content-Length: 1000\r\n\r\n", 413),
        (LINE + H2C[0] + b"X: " + b"a" * 40_000 + b"\r\n" + LENGTH, 431),
    ],
)
@pytest.mark.parametrize("size", [3, 2**20])
def test_what_is_no_request_is_refused(data: bytes, status: int, size: int) -> None:
    with pytest.raises(RefusedError) as refused:
        read(data, size, Limits(body_bytes=999))
    assert refused.value.status == status


def test_nothing_is_read_after_the_last_request() -> None:
    last = LINE + b"Connection: close\r\n" + LENGTH
    assert len(read(last + last)) == 1
    assert len(read(last + b"garbage")) == 1
    assert len(read(last.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Connection: close\r\n", b"") + last)) == 1


def test_a_large_body_is_read_whatever_its_parts_are() -> None:
    body = bytes(range(256)) * 4000
    plain = LINE + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunked = LINE + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for size in (1000, 2**18, 2**21):
        assert [found.body for found in read(plain + chunked + plain, size)] == [body] * 3
