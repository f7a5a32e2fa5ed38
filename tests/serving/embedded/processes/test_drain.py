"""SIGTERM and SIGINT: the embedded server drains. A real TensorFlow Serving ends at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.servers import GRPCIO, ModelServer
from tests.serving.embedded.rest.wire import GOOD, connected, post
from tests.serving.embedded.running import (
    Asker,
    Gate,
    Start,
    ask_until_refused,
    both_embedded,
    embedded_only,
    wait_until,
)


@both_embedded
def test_a_drain_answers_what_is_in_flight_and_takes_no_more(
    start_command: Start, models: Path, tmp_path: Path, engine: ModelServer
) -> None:
    flags = ("--file_system_poll_wait_seconds=0", "--allow_file_and_python_ops")
    server = start_command("--model_name=gated", f"--model_base_path={models}/gated", *flags).ready()
    ask = Asker(server)
    gate = Gate(tmp_path)
    answers: dict[str, object] = {}

    def over_grpc() -> None:
        answers["grpc"] = gate.over_grpc(ask, "gated")

    def over_rest() -> None:
        answers["rest"] = gate.over_rest(ask, "gated")

    in_flight = [threading.Thread(target=over_grpc), threading.Thread(target=over_rest)]
    for thread in in_flight:
        thread.start()
    # Both are on their way when a third, sent after them on connections of its own, has been answered.
    third = Asker(server)
    (tmp_path / "open").mkdir()
    opened = Gate(tmp_path / "open")
    opened.open()
    assert (opened.over_grpc(third, "gated"), opened.over_rest(third, "gated")) == (Gate.OPEN, Gate.OPEN)
    assert not answers
    server.signal(signal.SIGTERM)
    wait_until("draining", lambda: server.says("draining"))

    def rest_refuses() -> bool:
        try:
            Asker(server).rest.get("/v1/models/gated")
        except httpx2.ConnectError:
            return True
        return False

    def grpc_refuses() -> bool:
        # On the connection that it had.
        return opened.over_grpc(third, "gated") == "UNAVAILABLE"

    wait_until("REST refusing", rest_refuses)
    if engine == GRPCIO:
        wait_until("gRPC refusing", grpc_refuses)
    else:
        # It closes nothing before the last call has a response, and goes on until then.
        assert opened.over_grpc(third, "gated") == Gate.OPEN
    assert not answers
    gate.open()
    for thread in in_flight:
        thread.join()

    assert answers == {"grpc": Gate.OPEN, "rest": Gate.OPEN}
    assert server.wait() == 0, server.output
    assert grpc_refuses()


@both_embedded
@pytest.mark.parametrize("workers", [1, 2])
def test_a_drain_under_load_loses_no_request_and_the_server_says_what_it_does(
    start_command: Start, models: Path, workers: int, engine: ModelServer
) -> None:
    flags = ("--model_name=scale", f"--model_base_path={models}/scale", f"--workers={workers}")
    server = start_command(*flags).ready()
    answered: list[str] = []
    lost: list[Exception] = []
    with ThreadPoolExecutor(16) as pool:
        asking = [
            pool.submit(ask_until_refused, server, protocol, "scale", answered, lost)
            for protocol in ("grpc", "rest") * 8
        ]
        wait_until("answers", lambda: answered.count("grpc") > 100 and answered.count("rest") > 100)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0, server.output
        for future in asking:
            future.result()

    assert not lost
    carrier = "grpcio" if engine == GRPCIO else "pygrpc-native"
    # And nothing of TensorFlow's.
    assert [line.split(" ", 1)[1] for line in server.output.splitlines()] == [
        f"info: loading model 'scale' version 2 from {models}/scale/2",
        "info: model 'scale' version 2 is available",
        f"info: serving: gRPC on 127.0.0.1:{server.grpc_port} ({carrier}), REST on 127.0.0.1:{server.rest_port}; "
        "models: scale 2; device: CPU",
        "info: draining: completing requests in flight, for at most 60 s (--drain_seconds)",
        "info: model 'scale' version 2 is unloaded",
        "info: stopped",
    ]


@embedded_only
def test_a_drain_does_not_wait_for_requests_of_which_a_part_is_there(start_command: Start, models: Path) -> None:
    server = start_command("--model_name=scale", f"--model_base_path={models}/scale").ready()
    with contextlib.ExitStack() as stack:
        half = (b"", b"POST /v1/mod", post("scale:predict", b"{", length=100), post("scale:predict", GOOD))
        wires = [stack.enter_context(connected(server)) for _ in half]
        for wire, data in zip(wires, half, strict=True):
            wire.send(data)
        assert wires[-1].answer()[0] == 200
        server.signal(signal.SIGTERM)
        assert server.wait(30) == 0, server.output
        assert all(wire.ended() for wire in wires)
    assert not server.says("cut off")


@embedded_only
@pytest.mark.parametrize("workers", [1, 2])
def test_a_drain_has_an_end_whatever_is_in_flight(start_command: Start, models: Path, workers: int) -> None:
    flags = ("--rest_api_timeout_in_ms=0", "--drain_seconds=1", f"--workers={workers}")
    server = start_command("--model_name=slow", f"--model_base_path={models}/slow", *flags).ready()
    with contextlib.ExitStack() as stack:
        endless = [stack.enter_context(connected(server)) for _ in range(3)]
        for wire in endless:
            wire.send(post("slow:predict", b'{"inputs": [2147483647]}'))
        # Each worker reads its connections in their order.
        for _ in range(8):
            later = stack.enter_context(connected(server))
            later.send(post("slow:predict", b'{"inputs": [1]}'))
            assert later.answer()[0] == 200
        server.signal(signal.SIGTERM)
        assert server.wait(30) == 0, server.output
        assert all(wire.ended() for wire in endless)
    assert server.says("3 request(s) cut off after 1 s (--drain_seconds)")


@embedded_only
def test_a_second_signal_ends_at_once(start_command: Start, models: Path) -> None:
    flags = ("--model_name=slow", f"--model_base_path={models}/slow", "--file_system_poll_wait_seconds=0")
    server = start_command(*flags).ready()
    ask = Asker(server)
    threading.Thread(target=ask.error, args=("slow", {"steps": np.array([2**31 - 1], np.int32)}), daemon=True).start()
    ask.post("slow:predict", {"inputs": [1]})
    server.signal(signal.SIGINT)
    wait_until("draining", lambda: server.says("draining"))
    assert server.process.poll() is None
    server.signal(signal.SIGINT)

    assert server.wait(10) == 128 + signal.SIGINT
