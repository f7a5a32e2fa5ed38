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


@pytest.mark.parametrize(
    "expect", [b"Expect: 200-ok", b"Expect:", b"Expect: 100-continue, x", b"Expect: 100-continue;q=1"]
)
@pytest.mark.parametrize(
    "rest", [LENGTH, CHUNKED, b"Content-Length: 99999999999\r\n\r\n"], ids=["length", "chunks", "huge"]
)
def test_an_expectation_that_nobody_meets_is_refused_with_the_real_servers_page(expect: bytes, rest: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        read(LINE + expect + b"\r\n" + rest)
    assert refused.value.status == 417
    assert refused.value.page is not None
    assert refused.value.page.kind == b"text/html"
    assert b"<TITLE>417 Expectation Failed</TITLE>" in refused.value.page.body
    assert b"<H1>Expectation Failed</H1>" in refused.value.page.body


@pytest.mark.parametrize("expect", [b"Expect: 100-continue", b"expect: 100-Continue \r\nExpect: other"])
def test_a_client_that_waits_may_send_its_body(expect: bytes) -> None:
    """Of two lines the first counts, in whatever case."""
    allowed: list[bool] = []
    reader = Reader(Limits(), "client", lambda: allowed.append(True), lambda _: True)
    reader.feed(memoryview(LINE + expect + b"\r\nContent-Length: 5\r\n\r\n"))
    assert allowed == [True]


@pytest.mark.parametrize("expect", [b"Expect: 100-continue", b"Expect: 200-ok"])
@pytest.mark.parametrize(
    "line",
    [
        b"GET /v1/models/m HTTP/1.1\r\nContent-Length: 0\r\n",
        b"GET /v1/models/m HTTP/1.1\r\n",
        b"DELETE /v1/models/m HTTP/1.1\r\nContent-Length: 0\r\n",
        b"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: 0\r\n",
        b"POST /v1/models/m:predict HTTP/1.0\r\nContent-Length: 0\r\n",
    ],
)
def test_without_a_body_nobody_looks_at_expect(line: bytes, expect: bytes) -> None:
    allowed: list[bool] = []
    reader = Reader(Limits(), "client", lambda: allowed.append(True), lambda _: True)
    reader.feed(memoryview(line + expect + b"\r\n\r\n"))
    assert len(reader.requests) == 1
    assert allowed == []


def test_an_old_client_expects_nothing() -> None:
    (request,) = read(LINE.replace(b"1.1", b"1.0") + b"Expect: 200-ok\r\n" + LENGTH)
    assert request.body == BODY


def test_the_first_of_several_lines_counts_and_proxies_may_add_theirs() -> None:
    lines = b"Origin: a\r\norigin: b\r\nX-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 1.1.1.1, 10.0.0.1\r\n"
    (request,) = read(LINE + lines + LENGTH)
    assert request.headers[b"origin"] == b"a"
    assert request.headers[b"x-forwarded-for"] == b"6.6.6.6, 1.1.1.1, 10.0.0.1"
