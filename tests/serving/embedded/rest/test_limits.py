"""Clients that are slow, silent, endless or too many: each is left after a time, and nobody else notices."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.servers import ModelServer
from tests.serving.embedded.rest.wire import GOOD, Wire, connected, get, post
from tests.serving.embedded.running import Process, listener, together, wait_until

pytestmark = together

MB = 2**20
CONFIG = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
LIMITS = (
    "--rest_api_header_timeout_in_ms=600",
    "--rest_api_read_timeout_in_ms=600",
    "--rest_api_body_timeout_in_ms=1500",
    "--rest_api_send_timeout_in_ms=600",
    "--rest_api_idle_timeout_in_ms=900",
    f"--max_body_bytes={8 * MB}",
    f"--rest_api_max_buffered_bytes={32 * MB}",
    "--rest_api_max_connections=40",
    "--max_requests_in_flight=4",
    "--max_json_values=100000",
    "--access_log",
)


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory, prepared: ModelServer) -> Iterator[Process]:
    """A server whose limits are short."""
    folder = tmp_path_factory.mktemp("limits")
    entries = "".join(CONFIG.format(name, models) for name in ("scale", "kinds", "pair"))
    (folder / "models.config").write_text(f"model_config_list {{ {entries} }}")
    process = Process(f"--model_config_file={folder}/models.config", *LIMITS, engine=prepared)
    try:
        yield process.ready()
    finally:
        process.stop()


@pytest.fixture(autouse=True)
def _serves_others(server: Process) -> Iterator[None]:
    yield
    with connected(server) as good:
        good.send(post("scale:predict", GOOD))
        assert good.answer()[0] == 200


def drip(wire: Wire, data: bytes, seconds: float) -> None:
    """Sends a byte of `data` now and then, until `seconds` are over or the server has had enough."""
    until = time.monotonic() + seconds
    with contextlib.suppress(ConnectionError):
        for byte in itertools.cycle(data):
            if time.monotonic() > until:
                return
            wire.socket.sendall(bytes([byte]))
            # This is what such a client does.
            time.sleep(0.05)


def logged(server: Process, status: int) -> int:
    """How many lines of the access log have this status."""
    lines = [json.loads(line) for line in list(server.lines) if line.startswith("{")]
    return sum(line["status"] == status for line in lines)


HEAD = b"POST /v1/models/scale:predict HTTP/1.1\r\nHost: test\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "dripping"),
    [
        (b"", b""),
        (post("scale:predict", GOOD), b""),
        (b"POST /v1/mod", b""),
        (HEAD + b"X: ", b"a"),
        (post("scale:predict", GOOD) + HEAD, b""),
        (post("scale:predict", b"{", length=100), b""),
        (post("scale:predict", b"{", length=10**6), b" "),
        (CHUNKED + b"5\r\n{", b""),
        (CHUNKED, b"1\r\n \r\n"),
        (CHUNKED + b"0\r\nX: ", b"a"),
    ],
    ids=[
        *("silent", "idle", "half a line", "a head that drips", "half a second head", "half a body"),
        *("a body that drips", "half a chunk", "chunks that drip", "a trailer that drips"),
    ],
)
def test_who_sends_too_slowly_is_left(server: Process, sent: bytes, dripping: bytes) -> None:
    begun = sent and GOOD not in sent.split(HEAD)[-1]
    lines = logged(server, 408)
    with connected(server) as slow:
        slow.send(sent)
        if GOOD in sent:
            assert slow.answer()[0] == 200
        if dripping:
            drip(slow, dripping, 20)
        assert slow.ended()
    wait_until("a line in the access log", lambda: logged(server, 408) == lines + bool(begun))


def test_who_does_not_take_an_answer_is_left(server: Process) -> None:
    body = b'{"signature_name": "float32", "inputs": [' + b"1," * 10**6 + b"1]}"
    with connected(server, buffer=4096) as lazy:
        lazy.send(post("kinds:predict", body))
        wait_until("the answer", lambda: bool(lazy.socket.recv(1)))
        here, there = lazy.socket.getsockname()[1], server.rest_port

        def is_left() -> bool:
            ends = [(one.laddr, one.raddr) for one in psutil.net_connections("tcp") if one.laddr and one.raddr]
            return not any(mine.port == there and its.port == here for mine, its in ends)

        wait_until("the connection's end", is_left, 20)


LINE = "The request line and the headers are larger than 32768 bytes"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"X: " + b"a" * MB, 431),
        (HEAD + b"X: " + b"a" * 33000 + b"\r\n\r\n", 431),
        (HEAD + b"X: " + b"a" * 30000 + b"\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD, 200),
        (b"GET /v1/models/" + b"a" * MB, 431),
        (HEAD + b"".join(b"h%d: v\r\n" % number for number in range(10_000)), 431),
        (HEAD + b"a" * MB, 431),
        (b"\r\n" * MB, 431),
        (CHUNKED + b"0\r\n" + b"X: " + b"a" * MB, 431),
        (CHUNKED + b"1;" + b"a" * MB, 431),
        (post("scale:predict", b"", length=8 * MB + 1), 413),
        (CHUNKED + b"900000\r\n" + b" " * 9 * MB, 413),
    ],
    ids=[
        *("header", "whole header", "header that fits", "URL", "headers", "name", "empty lines", "trailer"),
        *("chunk extension", "announced body", "chunk"),
    ],
)
def test_what_is_too_large_is_refused_while_it_comes(server: Process, data: bytes, status: int) -> None:
    with connected(server) as endless:
        endless.send(data)
        if status == 200:
            assert endless.answer()[0] == 200
        else:
            text = LINE if status == 431 else f"The body is larger than {8 * MB} bytes"
            assert endless.error() == (status, text)


def test_a_head_that_comes_byte_by_byte_costs_no_more_than_one_that_comes_at_once(server: Process) -> None:
    process = psutil.Process(listener(server.rest_port))

    def cost(head: bytes) -> float:
        before = sum(process.cpu_times()[:2])
        with connected(server) as endless:
            for at in range(0, len(head), 50):
                endless.send(head[at : at + 50])
            assert endless.error()[0] == 431
        return float(sum(process.cpu_times()[:2]) - before)

    assert cost(HEAD + b"X: " + b"a" * 20 * MB) < 3


BOMBS = {
    "zeros": gzip.compress(b"0" * 400 * MB, 9),
    "lists": gzip.compress(b'{"instances": [' + b"[]," * 33_000_000 + b"1]}", 9),
    "just too large": gzip.compress(b'{"instances": [' + b" " * 8 * MB + b"1]}", 9),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_body_that_inflates_to_more_than_the_limit_is_refused_before_it_is_there(server: Process, name: str) -> None:
    bomb = BOMBS[name]
    process = psutil.Process(listener(server.rest_port))
    before = process.memory_info().rss
    most = before
    with connected(server) as hostile:
        hostile.send(post("scale:predict", bomb, "Content-Encoding: gzip"))
        hostile.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                most = max(most, process.memory_info().rss)
                if hostile.socket.recv(1, 2):
                    break
        hostile.socket.settimeout(30)
        wait_until("an answer", lambda: bool(hostile.socket.recv(1, 2)))
        status, body = hostile.answer()
    assert (status, json.loads(body)["error"]) == (413, f"The body is larger than {8 * MB} bytes")
    assert max(most, process.memory_info().rss) - before < 64 * MB


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"",', b"[[[1]]],", b'{"a":1},', b"NaN,", b'"\\n",'])
def test_a_document_of_more_values_than_the_limit_is_refused_before_they_are_made(server: Process, unit: bytes) -> None:
    body = b'{"instances": [' + unit * (7 * MB // len(unit)) + b"{}]}"
    with connected(server) as hostile:
        hostile.send(post("scale:predict", body))
        status, answer = hostile.answer()
        assert status == 413
        assert "values" in json.loads(answer)["error"]
        assert "--max_json_values" in json.loads(answer)["error"]
        # The connection is as good as before.
        hostile.send(post("scale:predict", GOOD))
        assert hostile.answer()[0] == 200


def test_numbers_alone_are_no_values_that_count(server: Process) -> None:
    with connected(server) as honest:
        rows: Any = [[1.5, 2.5, 3.5]] * 50_000
        honest.send(post("scale:predict", json.dumps({"instances": rows}).encode()))
        assert honest.answer()[0] == 200


def test_requests_of_which_a_part_is_there_take_no_place_of_others(server: Process) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(connected(server)).send(post("scale:predict", b"{", length=100))
        good = stack.enter_context(connected(server))
        for path in ("/healthz", "/readyz", "/v1/models/scale"):
            good.send(get(path))
            assert good.answer()[0] == 200
        good.send(post("scale:predict", GOOD))
        assert good.answer()[0] == 200


def test_when_there_are_too_many_connections_one_without_a_request_makes_room(server: Process) -> None:
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connected(server)) for _ in range(100)]
        good = stack.enter_context(connected(server))
        good.send(get("/healthz"))
        assert good.answer() == (200, b"ok\n")
        assert sum(map(is_open, crowd)) < 50


def is_open(wire: Wire) -> bool:
    wire.socket.setblocking(False)
    try:
        return bool(wire.socket.recv(1))
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def test_bodies_that_do_not_end_are_given_up_for_those_that_do(server: Process) -> None:
    with contextlib.ExitStack() as stack:
        half = post("scale:predict", b" " * 4 * MB, length=8 * MB)
        slow = [stack.enter_context(connected(server)) for _ in range(12)]
        for one in slow:
            one.send(half)
        good = stack.enter_context(connected(server))
        good.send(post("scale:predict", b" " * 6 * MB + GOOD))
        assert good.answer()[0] == 200
        status, text = slow[0].error()
        assert (status, text) == (
            503,
            "The memory for request bodies is full, and this one took longest; try again later",
        )
        assert slow[-1].ended()
