"""A model that never ends is cancelled at its requests' deadlines, and keeps nobody else waiting meanwhile."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from tests.serving.embedded.running import Asker, Process, Start, embedded_only, listener, together, wait_until
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.messages import PredictRequest, PredictResponse
from tfserving.foundation.tensors import to_proto

pytestmark = [embedded_only, together]

CONFIG = """model_config_list {{
  config {{ name: "scale" base_path: "{0}/scale" model_platform: "tensorflow" }}
  config {{ name: "endless" base_path: "{0}/endless" model_platform: "tensorflow" }}
  config {{ name: "slow" base_path: "{0}/slow" model_platform: "tensorflow" }}
}}"""
# More requests than threads, and than a model may have running.
MANY = 20
THREADS = ("--grpc_max_threads=4", "--rest_api_num_threads=4")


@pytest.fixture
def server(start: Start, models: Path, tmp_path: Path) -> Process:
    return serve(start, models, tmp_path)


def serve(start: Start, models: Path, folder: Path, *flags: str) -> Process:
    config = folder / "models.config"
    config.write_text(CONFIG.format(models))
    return start(
        f"--model_config_file={config}",
        "--enable_grpc_healthcheck_service",
        "--rest_api_timeout_in_ms=4000",
        "--drain_seconds=2",
        *THREADS,
        *flags,
    ).ready()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2 * MANY) as pool:
        yield pool


def never(ask: Asker, seconds: float) -> str:
    """The code of the error of a request that would never end."""
    request = PredictRequest()
    request.model_spec.name = "endless"
    request.inputs["x"].CopyFrom(to_proto(np.ones(1, np.float32)))
    with pytest.raises(grpc.RpcError) as error:
        ask.call("PredictionService/Predict", request, PredictResponse, seconds)
    code = error.value.code()
    return "DEADLINE_EXCEEDED" if code is grpc.StatusCode.DEADLINE_EXCEEDED else f"{code.name}: {error.value.details()}"


def busy(server: Process) -> float:
    """How many processors the server keeps busy; it may be forked off another process than the one that was started."""
    process = psutil.Process(listener(server.rest_port))
    return process.cpu_percent(0.3) / 100


def others(ask: Asker) -> None:
    """A request to another model over each protocol, and what looks after the server; raises when one is slow."""
    begun = time.monotonic()
    assert ask.predict("scale", {"x": rows(1)})["version"].tolist() == [2]
    assert ask.post("scale:predict", {"instances": rows(1).tolist()})[0] == 200
    health: Any = ask.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert health(b"", timeout=3) == b"\x08\x01"
    assert ask.state("scale", 2) == "AVAILABLE"
    assert time.monotonic() - begun < 3


def test_others_are_served_and_the_deadlines_end_it(server: Process, pool: ThreadPoolExecutor) -> None:
    ask = Asker(server)
    over_grpc = [pool.submit(never, ask, 4) for _ in range(MANY)]
    over_rest = [pool.submit(ask.post, "endless:predict", {"inputs": [1.0]}) for _ in range(MANY)]
    wait_until("the model's running", lambda: busy(server) > 0.2)
    for _ in range(3):
        others(ask)
    assert {future.result() for future in over_grpc} == {"DEADLINE_EXCEEDED"}
    assert {future.result()[0] for future in over_rest} == {504}
    wait_until("rest", lambda: busy(server) < 0.1)
    others(ask)


def test_a_request_without_a_deadline_ends_too(start: Start, models: Path, tmp_path: Path) -> None:
    ask = Asker(serve(start, models, tmp_path, "--max_run_time_in_ms=500"))
    request = PredictRequest()
    request.model_spec.name = "endless"
    request.inputs["x"].CopyFrom(to_proto(np.ones(1, np.float32)))
    call: Any = ask.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as error:
        call(request.SerializeToString())
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "Timed out waiting for notification" in (error.value.details() or "")


def test_batched_it_is_the_same(start: Start, models: Path, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    server = serve(start, models, tmp_path, "--enable_batching")
    ask = Asker(server)
    waiting = [pool.submit(never, ask, 4) for _ in range(MANY)]
    wait_until("the model's running", lambda: busy(server) > 0.2)
    for _ in range(3):
        others(ask)
    assert {future.result() for future in waiting} == {"DEADLINE_EXCEEDED"}
    wait_until("rest", lambda: busy(server) < 0.1)


def test_a_slow_model_answers_all_whatever_their_number(server: Process, pool: ThreadPoolExecutor) -> None:
    ask = Asker(server)
    steps = {"steps": np.array([100], np.int32)}
    answers = [pool.submit(ask.predict, "slow", steps) for _ in range(2 * MANY)]
    assert {int(future.result()["done"][0]) for future in answers} == {100}


def test_a_signal_ends_the_server_in_time(server: Process, pool: ThreadPoolExecutor) -> None:
    ask = Asker(server)
    over_grpc = [pool.submit(never, ask, 60) for _ in range(3)]
    wait_until("the model's running", lambda: busy(server) > 0.2)
    begun = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait(30) == 0
    assert time.monotonic() - begun < 15
    assert {future.result().partition(":")[0] for future in over_grpc} <= {"CANCELLED", "UNAVAILABLE"}
