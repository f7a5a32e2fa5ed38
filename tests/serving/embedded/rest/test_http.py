"""HTTP as clients speak it, on every model server that is there."""

from __future__ import annotations

import pytest

from tests.serving.embedded.rest.wire import GOOD, connected, get, post
from tests.serving.embedded.running import Process, embedded_only, together

pytestmark = together

CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (GOOD[:3], GOOD[3:])) + b"0\r\n\r\n"
CHUNKED = b"POST /v1/models/scale:predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n"
# What Java's HttpClient and `curl --http2` send with every request to http://.
H2C = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGVzdA==", "Sec-WebSocket-Version: 13")


@pytest.mark.parametrize("size", [1, 30, 10_000])
@pytest.mark.parametrize(
    "request_",
    [
        post("scale:predict", GOOD),
        post("scale:predict", GOOD, *H2C),
        post("scale:predict", GOOD, *WEBSOCKET),
        CHUNKED + b"\r\n" + CHUNKS,
        CHUNKED + "\r\n".join((*H2C, "", "")).encode() + CHUNKS,
    ],
    ids=["plain", "h2c", "websocket", "chunked", "chunked h2c"],
)
def test_a_request_is_answered_in_whatever_parts_it_comes(server: Process, request_: bytes, size: int) -> None:
    with connected(server) as client:
        for _ in range(2):
            for start in range(0, len(request_), size):
                client.send(request_[start : start + size])
            assert client.answer()[0] == 200


def test_a_client_that_waits_for_permission_gets_it(server: Process) -> None:
    with connected(server) as client:
        client.send(post("scale:predict", b"", "Expect: 100-continue", length=len(GOOD)))
        assert client.answer() == (100, b"")
        client.send(GOOD)
        assert client.answer()[0] == 200


def test_a_client_that_expects_anything_else_is_refused(server: Process) -> None:
    with connected(server) as client:
        client.send(post("scale:predict", GOOD, "Expect: 200-ok"))
        assert client.answer() == (
            417,
            b"<HTML><HEAD>\n<TITLE>417 Expectation Failed</TITLE>\n</HEAD><BODY>\n"
            b"<H1>Expectation Failed</H1>\n</BODY></HTML>\n",
        )
        assert client.ended()


@pytest.mark.parametrize("request_", [post("scale:predict", GOOD, "Connection: close"), post("scale:predict", GOOD)])
def test_a_connection_ends_when_its_client_wants_that(server: Process, request_: bytes) -> None:
    with connected(server) as client:
        old = b"Connection: close" not in request_
        client.send(request_.replace(b"HTTP/1.1", b"HTTP/1.0") if old else request_)
        assert client.answer()[0] == 200
        assert client.ended()


@embedded_only
def test_requests_that_come_together_are_answered_in_their_order(server: Process) -> None:
    with connected(server) as client:
        good, lost = post("scale:predict", GOOD), post("none:predict", GOOD)
        client.send(good + lost + good * 500 + lost + b"nonsense\r\n\r\n")
        statuses = [client.answer()[0] for _ in range(504)]
        assert statuses == [200, 404, *[200] * 500, 404, 501]
        assert client.ended()


@embedded_only
@pytest.mark.parametrize(
    "nonsense", [b"FOO /healthz HTTP/1.1\r\n\r\n", b"POST labels/1 HTTP/1.1\r\n\r\n", b"\0\r\n\r\n"]
)
def test_what_is_refused_after_a_head_request_gets_a_whole_answer(server: Process, nonsense: bytes) -> None:
    with connected(server) as client:
        client.send(get("/healthz", "HEAD"))
        assert client.answer(body=False) == (200, b"")
        client.send(nonsense)
        status, body = client.answer()
        assert status in (400, 501)
        assert body.startswith(b"<HTML>")
        assert client.ended()
