"""SIGTERM and SIGINT: the embedded server drains. A real TensorFlow Serving ends at once."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx2
import numpy as np
import pytest

from tests.serving.embedded.running import Asker, Process, Start, ask_until_refused, embedded_only, wait_until

SECONDS = 3.0
pytestmark = embedded_only


def steps_for(ask: Asker, seconds: float) -> int:
    """How many steps the slow model takes about `seconds` for, two requests at a time."""
    steps = 200
    while True:
        begun = time.monotonic()
        ask.predict("slow", {"steps": np.array([steps], np.int32)})
        took = time.monotonic() - begun
        if took > 0.3:
            return int(steps * seconds / took)
        steps *= 2


def serve_slow(start_command: Start, models: Path) -> Process:
    return start_command(
        "--model_name=slow", f"--model_base_path={models}/slow", "--file_system_poll_wait_seconds=0"
    ).ready()


def test_a_drain_answers_what_is_in_flight_and_refuses_what_is_new(start_command: Start, models: Path) -> None:
    server = serve_slow(start_command, models)
    ask = Asker(server)
    steps = steps_for(ask, SECONDS)
    answers: dict[str, object] = {}

    def over_grpc() -> None:
        answers["grpc"] = ask.predict("slow", {"steps": np.array([steps], np.int32)})["done"].tolist()

    def over_rest() -> None:
        answers["rest"] = ask.post("slow:predict", {"inputs": [steps]})

    in_flight = [threading.Thread(target=over_grpc), threading.Thread(target=over_rest)]
    for thread in in_flight:
        thread.start()
    # Both are on their way when a third, sent after them on connections of its own, has been answered.
    third = Asker(server)
    third.predict("slow", {"steps": np.array([1], np.int32)})
    third.post("slow:predict", {"inputs": [1]})
    assert not answers
    server.signal(signal.SIGTERM)
    wait_until("draining", lambda: server.says("draining"))

    def rest_refuses() -> bool:
        try:
            Asker(server).rest.get("/v1/models/slow")
        except httpx2.ConnectError:
            return True
        return False

    def grpc_refuses() -> bool:
        # On the connection that it had.
        try:
            third.predict("slow", {"steps": np.array([1], np.int32)})
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False

    wait_until("REST refusing", rest_refuses)
    wait_until("gRPC refusing", grpc_refuses)
    assert not answers, "the requests in flight were too quick to tell anything"
    for thread in in_flight:
        thread.join()

    assert answers == {"grpc": [steps], "rest": (200, {"outputs": [steps]})}
    assert server.wait() == 0, server.output


@pytest.mark.parametrize("workers", [1, 2])
def test_a_drain_under_load_loses_no_request_and_the_server_says_what_it_does(
    start_command: Start, models: Path, workers: int
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
    # And nothing of TensorFlow's.
    assert server.output.splitlines() == [
        f"loading model 'scale' version 2 from {models}/scale/2",
        "model 'scale' version 2 is available",
        f"serving: gRPC on 127.0.0.1:{server.grpc_port}, REST on 127.0.0.1:{server.rest_port}; models: scale 2",
        "draining: requests in flight are answered, new ones are refused",
        "model 'scale' version 2 is unloaded",
    ]


def test_a_second_signal_ends_at_once(start_command: Start, models: Path) -> None:
    server = serve_slow(start_command, models)
    ask = Asker(server)
    threading.Thread(target=ask.error, args=("slow", {"steps": np.array([2**31 - 1], np.int32)}), daemon=True).start()
    ask.post("slow:predict", {"inputs": [1]})
    server.signal(signal.SIGINT)
    wait_until("draining", lambda: server.says("draining"))
    assert server.process.poll() is None
    server.signal(signal.SIGINT)

    assert server.wait(10) == 128 + signal.SIGINT
