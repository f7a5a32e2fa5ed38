"""A server all of whose threads are busy: what is sent again, how, and what is reported of it."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.clients.conftest import ON_SERVERS, STANDING_IN, Server, serving
from tests.clients.hostile import http_server, whole
from tests.clients.refusing import refusing
from tfserving.cli import tfserving
from tfserving.clients import connect
from tfserving.clients.busy import Patient, Refusals
from tfserving.clients.errors import BUSY, ResourceExhausted
from tfserving.foundation.golden import read_golden
from tfserving.k8s.rollout import gates
from tfserving.k8s.rollout.target import Reached
from tfserving.serving.models_yaml.rollout import Rollout

pytestmark = ON_SERVERS
HINT = "all threads of the server are busy: send fewer requests at a time, or raise its --grpc_max_threads"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(tfserving, [*map(str, arguments)])


def every_second() -> Any:
    """Refuses every second call to Predict."""
    turns = itertools.count()
    return lambda method, _now: method == "Predict" and next(turns) % 2 == 0


@pytest.fixture(scope="module")
def few_threads(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that refuses what exceeds its few threads, as TensorFlow Serving was seen to."""
    with serving(models, tmp_path_factory.mktemp("few"), "--grpc_max_threads=8", engine=STANDING_IN) as running:
        yield running


def test_a_server_of_few_threads_is_verified_and_reported_as_busy(few_threads: Server, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    addresses = ("--server", f"grpc://{few_threads.grpc},http://{few_threads.rest}")
    result = run("verify", few_threads.models / "scale", *addresses, "--report", page)
    assert result.exit_code == 0, result.output
    said = re.search(
        rf"the server {few_threads.grpc} was busy (once|\d+ times) \(RESOURCE_EXHAUSTED: {BUSY}\)\. "
        r"These requests were sent again, (16|8|4|2|1) at a time\. Its --grpc_max_threads is too low for 32 at a time",
        result.stdout,
    )
    assert said, result.stdout
    assert said[0] in page.read_text()
    found = json.loads(run("verify", few_threads.models / "scale", *addresses, "--json").stdout)
    (busy,) = found["busy"]
    assert found["ok"]
    assert (busy["server"], busy["most"]) == (few_threads.grpc, 32)
    assert busy["refused"] > 0
    assert busy["at_a_time"] < 32


def test_a_server_that_stays_busy_fails_with_the_hint_and_is_waited_for_once(server: Server) -> None:
    started = time.monotonic()
    with refusing(server.grpc, lambda method, _: method == "Predict") as (address, counted):
        models = [server.models / name for name in ("scale", "words")]
        result = run("verify", *models, "--server", f"grpc://{address}", "--timeout", 1)
    assert result.exit_code == 1
    assert f"RESOURCE_EXHAUSTED: {BUSY}; {HINT}" in result.stdout
    assert "server.grpc_max_threads" in result.stdout
    assert "failed" in result.stdout
    assert counted.refused > 5
    assert time.monotonic() - started < 8, "11 golden requests, each of which may take a second"


def test_a_server_that_is_too_busy_for_its_status_fails(server: Server) -> None:
    with refusing(server.grpc, lambda method, _: method == "GetModelStatus") as (address, counted):
        result = run("verify", server.models / "scale", "--server", f"grpc://{address}", "--timeout", 0.5)
    assert result.exit_code == 1
    assert HINT in result.stdout
    assert counted.refused > 1


def test_a_model_is_waited_for_while_the_server_is_busy(server: Server) -> None:
    turns = itertools.count()
    with (
        refusing(server.grpc, lambda _method, _now: next(turns) < 4) as (address, counted),
        connect(f"grpc://{address}") as client,
    ):
        assert client.wait_until_available("scale", label="stable", timeout=30) == 1
    assert counted.refused == 4


def test_a_batch_is_not_left_out_because_the_server_is_busy(server: Server) -> None:
    with refusing(server.grpc, lambda method, _: method == "GetModelMetadata") as (address, _):
        options = ("--server", f"grpc://{address}", "--timeout", 0.5, "--way", "batch")
        result = run("verify", server.models / "words", *options)
    assert result.exit_code == 1
    assert HINT in result.stdout


def test_other_exhausted_resources_are_failures_at_once(server: Server) -> None:
    text = "out of memory"
    with refusing(server.grpc, lambda method, _: method == "Predict", text) as (address, counted):
        options = ("--server", f"grpc://{address}", "--way", "alone")
        result = run("verify", server.models / "words", *options)
    assert result.exit_code == 1
    assert f"RESOURCE_EXHAUSTED: {text}" in result.stdout
    assert "was busy" not in result.stdout
    assert counted.refused == 1


def test_responses_are_captured_from_a_busy_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / "bodies.jsonl").write_text('{"model": "words", "inputs": ["four"]}\n')
    with refusing(server.grpc, every_second()) as (address, _):
        result = run(
            *("capture", tmp_path / "bodies.jsonl", "--server", f"grpc://{address}"),
            *("--golden", tmp_path / "golden.tfrecord"),
        )
    assert result.exit_code == 0, result.output
    assert f"Warning: the server {address} was busy once" in result.stderr


def test_a_load_test_sends_nothing_again_and_names_the_refusals(few_threads: Server, tmp_path: Path) -> None:
    page = tmp_path / "bench.html"
    asked = ("bench", "scale", "--server", few_threads.url("grpc"), "--window", 0.2, "--warm-up", 0.1)
    shown = run(*asked, "--concurrency", 32, "--report", page)
    assert re.search(rf"32 at a time: \d+ failed with RESOURCE_EXHAUSTED: {BUSY}; {HINT}", shown.stdout), shown.output
    assert HINT in page.read_text()
    (step,) = json.loads(run(*asked, "--concurrency", 32, "--json").stdout)["steps"]
    assert list(step["errors"]) == [f"RESOURCE_EXHAUSTED: {BUSY}"]


def test_the_time_that_a_gate_waits_for_a_busy_server_is_no_latency(server: Server) -> None:
    golden = read_golden(server.models / "words" / "1")
    with refusing(server.grpc, every_second()) as (address, _):
        instance: Any = SimpleNamespace(name="pod", grpc=address, rest=server.rest)
        reached = Reached(instance, "words", 1)
        started = time.monotonic()
        found = gates.latency([(reached, reached)], golden, Rollout(), lambda _: None)
        took = time.monotonic() - started
    sides = [found.numbers[side] for side in ("new", "old")]
    assert sum(side["mean_ms"] * side["requests"] / 1000 for side in sides) < took / 2
    assert f"the server {address} was busy " in found.text


def test_golden_requests_pass_a_gate_of_a_busy_server_which_says_so(server: Server) -> None:
    with refusing(server.grpc, every_second()) as (address, _):
        instance: Any = SimpleNamespace(name="pod", grpc=address, rest=server.rest, device=None)
        said = gates.golden(Reached(instance, "words", 1), server.models / "words" / "1").text
    assert said.startswith("pod: the golden request of 1 model equal over gRPC and REST; the server")
    assert "was busy" in said


def test_rest_is_sent_again_too() -> None:
    refused = [whole(json.dumps({"error": BUSY}).encode(), status="429 Too Many Requests")]
    status = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    served = whole(json.dumps({"model_version_status": [status]}).encode())
    with http_server(keep=True) as rest, connect(rest.url) as client:
        rest.answers["scale"] = lambda connection, _: connection.sendall(refused.pop() if refused else served)
        patient = Patient(client)
        (found,) = patient.call(lambda seconds: client.status("scale", timeout=seconds), 5)
    assert found.version == 1
    assert patient.refusals == Refusals(client.server, 1, 1, 1)


class Threads:
    """A function that is called by many at once, and refuses those that exceed `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit, self.most, self._now = limit, 0, 0
        self._lock = threading.Lock()

    def __call__(self, _seconds: float) -> int:
        with self._lock:
            self._now += 1
            now = self._now
            self.most = max(self.most, now)
        time.sleep(0.02)
        with self._lock:
            self._now -= 1
        if now > self.limit:
            raise ResourceExhausted(BUSY)
        return now


@pytest.fixture
def patient() -> Patient:
    client: Any = SimpleNamespace(server="server")
    return Patient(client, 32)


def at_once(patient: Patient, send: Threads) -> list[int]:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(patient.call(send, 30))) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_all_calls_get_through_half_as_many_at_a_time_until_none_is_refused(patient: Patient) -> None:
    assert len(at_once(patient, Threads(5))) == 32
    assert patient.refusals is not None
    assert patient.refusals.at_a_time in (16, 8, 4)
    narrow = Threads(4)
    at_once(patient, narrow)
    assert narrow.most <= patient.refusals.at_a_time * 2


def test_many_refusals_at_once_halve_the_number_once(patient: Patient) -> None:
    gate = threading.Barrier(32)
    turn = threading.local()

    def send(_seconds: float) -> None:
        if not getattr(turn, "came", False):
            turn.came = True
            gate.wait(10)
            raise ResourceExhausted(BUSY)

    threads = [threading.Thread(target=lambda: patient.call(send, 30)) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert patient.refusals == Refusals("server", 32, 32, 16)


def test_a_call_that_is_refused_alone_does_not_slow_the_others(patient: Patient) -> None:
    refused = [ResourceExhausted(BUSY)] * 3

    def send(_seconds: float) -> str:
        if refused:
            raise refused.pop()
        return "served"

    assert patient.call(send, 30) == "served"
    assert str(patient.refusals) == (
        f"the server server was busy 3 times (RESOURCE_EXHAUSTED: {BUSY}). These requests were sent again. "
        "Its --grpc_max_threads is too low for all of its clients"
    )


def test_each_attempt_gets_the_time_that_is_left(patient: Patient) -> None:
    times: list[float] = []

    def send(seconds: float) -> None:
        times.append(seconds)
        raise ResourceExhausted(BUSY)

    with pytest.raises(ResourceExhausted, match=BUSY):
        patient.call(send, 0.3)
    assert times[0] == 0.3
    assert times == sorted(times, reverse=True)
    assert len(times) > 2
    assert times[-1] > 0
    with pytest.raises(ResourceExhausted):
        patient.call(send, 60)
    assert times[-1] == 60, "it was sent once more, and nothing waited for it"
