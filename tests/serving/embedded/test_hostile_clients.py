"""A slow client, and a body that inflates to a thousand times its size: they end, fill and lock no model server."""

from __future__ import annotations

import contextlib
import gzip
import socket
import time
from pathlib import Path

import psutil
import pytest

from tests.serving.embedded.running import Asker, Process, Start, listener, together
from tests.serving.embedded.saved_models import rows

pytestmark = together

HEAD = b"POST /v1/models/scale:predict HTTP/1.1\r\nhost: x\r\n"
# What a client sends, and then no more.
HALVES = {
    "nothing": b"",
    "half a request line": b"POST /v1/models/sc",
    "half a head": HEAD + b"x-half: ",
    "half a body": HEAD + b'content-length: 1000\r\n\r\n{"instances": [',
    "half a chunk": HEAD + b"transfer-encoding: chunked\r\n\r\nff\r\n{",
}


@pytest.fixture
def server(start: Start, models: Path) -> Process:
    return start("--model_name=scale", f"--model_base_path={models}/scale").ready()


def works(server: Process) -> None:
    ask = Asker(server)
    with contextlib.closing(ask):
        assert ask.predict("scale", {"x": rows(2)})["version"].tolist() == [2, 2]
        status, document = ask.post("scale:predict", {"instances": rows(2).tolist()})
        assert status == 200
        assert [row["version"] for row in document["predictions"]] == [2, 2]


def test_clients_that_send_a_part_of_a_request_keep_nobody_waiting(server: Process) -> None:
    works(server)
    with contextlib.ExitStack() as stack:
        for half in HALVES.values():
            for _ in range(20):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", server.rest_port), 30))
                client.sendall(half)
        begun = time.monotonic()
        for _ in range(5):
            works(server)
        assert time.monotonic() - begun < 30
    works(server)


def test_a_body_that_inflates_to_a_thousand_times_its_size_ends_and_fills_nothing(server: Process) -> None:
    """The real server inflates up to 100 MB, this one no more than --max_body_bytes; either reads no more of it."""
    works(server)
    process = psutil.Process(listener(server.rest_port))
    before = process.memory_info().rss
    ask = Asker(server)
    with contextlib.closing(ask):
        for unit in (b"[],", b"1,"):
            bomb = gzip.compress(b'{"instances":[' + unit * (120_000_000 // len(unit)) + b"1]}", 6)
            assert len(bomb) < 300_000
            response = ask.rest.post(
                "/v1/models/scale:predict", content=bomb, headers={"content-encoding": "gzip"}, timeout=60
            )
            assert 400 <= response.status_code < 500
            works(server)
    assert process.memory_info().rss - before < 500e6
