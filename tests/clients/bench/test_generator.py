"""The load generator against a server of known delay."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest

from tests.clients.conftest import ENVIRONMENT, ROOT
from tests.servers import free_ports
from tfserving.clients.address import Address, read_address
from tfserving.clients.bench import load
from tfserving.clients.bench.generator import Bench, GeneratorError, MeasurementStopped, highest_rate
from tfserving.clients.bench.load import Durations, Load, Step, Window, step_of

DELAY = 0.1
SHORT = Durations(warm_up=0.3, window=0.5, windows=2, most=4)


@dataclass(frozen=True)
class Delayed:
    """A server that answers after a known delay: its addresses by protocol."""

    grpc: Address
    rest: Address

    def address(self, protocol: str) -> Address:
        return self.grpc if protocol == "grpc" else self.rest

    def median(self) -> float:
        """Seconds that it took itself, in the middle, for what was asked since this was last called."""
        return float(httpx2.get(f"{self.rest.target}/median", trust_env=False).text)


@contextlib.contextmanager
def delayed(*seconds: float) -> Iterator[Delayed]:
    """A server that answers after so many seconds."""
    grpc_port, rest_port = free_ports(2)
    module = "tests.clients.bench.delay_server"
    command = [sys.executable, "-m", module, str(grpc_port), str(rest_port), *map(str, seconds)]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Delayed(read_address(f"grpc://127.0.0.1:{grpc_port}"), read_address(f"http://127.0.0.1:{rest_port}"))
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def slow() -> Iterator[Delayed]:
    with delayed(DELAY) as made:
        yield made


def bench_of(address: Address, durations: Durations = SHORT, **more: Any) -> Bench:
    return Bench(address, "/v1/models/m", {1: (b"body",)}, durations, **more)


@pytest.mark.alone
@pytest.mark.parametrize(
    ("protocol", "load"),
    [
        ("grpc", Load(concurrency=4)),
        ("grpc", Load(rate=40)),
        ("rest", Load(concurrency=1)),
        ("rest", Load(rate=40, arrival="uniform")),
    ],
    ids=str,
)
def test_a_known_delay_is_reported_within_5_percent(slow: Delayed, protocol: str, load: Load) -> None:
    step = bench_of(slow.address(protocol), processes=1).measure(load)
    # What the server itself measured meanwhile: a busy machine is late to wake it.
    delay = slow.median()
    assert step.percentiles["p50"] == pytest.approx(1000 * delay, rel=0.05)
    assert not step.errors
    assert not step.client_bound
    expected = load.rate if load.open else load.concurrency / delay
    assert step.throughput == pytest.approx(expected, rel=0.25)
    assert step.requests == pytest.approx(step.throughput * step.seconds)


@pytest.mark.alone
def test_several_processes_share_a_load(slow: Delayed, protocol: str) -> None:
    load = Load(concurrency=6) if protocol == "grpc" else Load(rate=60, arrival="uniform")
    step = bench_of(slow.address(protocol), processes=3).measure(load)
    assert step.processes == 3
    assert step.throughput == pytest.approx(load.rate or 6 / slow.median(), rel=0.15)


@pytest.mark.alone
def test_an_open_loop_counts_what_a_stall_keeps_waiting_and_a_closed_one_does_not() -> None:
    """A second of silence in two and a half: 40 % of what was meant to be sent waits, a quarter of that for long.

    A closed loop sends a single request into the silence, and would call 99 % of them quick.
    """

    def measured(load: Load) -> Step:
        with delayed(0.002, 1.0, 1.0) as stalling:
            return bench_of(stalling.grpc, Durations(0.5, 2.5, 1, 1)).measure(load)

    with ThreadPoolExecutor() as pool:
        opened, closed = pool.map(measured, (Load(rate=100, arrival="uniform"), Load(concurrency=1)))
    assert opened.percentiles["p90"] > 500
    assert closed.percentiles["p90"] <= 500
    assert min(opened.max_ms, closed.max_ms) > 900


def test_a_client_that_can_not_ask_more_tries_with_more_processes_and_says_so(
    slow: Delayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a processor can ask differs; here one that does anything at all can't do more.
    monkeypatch.setattr(load, "BUSY", 0.0001)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    said: list[str] = []
    quick = Durations(warm_up=0.2, window=0.2, windows=1, most=1)
    step = bench_of(slow.grpc, quick, progress=said.append).measure(Load(concurrency=4))
    assert [line.split(" with ")[1] for line in said if "bottleneck" in line] == ["2 processes", "3 processes"]
    assert (step.processes, step.client_bound) == (3, True)


def test_errors_are_counted_by_kind_and_are_not_among_the_latencies(protocol: str) -> None:
    (port,) = free_ports(1)
    nobody = read_address(f"{'http' if protocol == 'rest' else 'grpc'}://127.0.0.1:{port}")
    step = bench_of(nobody, Durations(0.3, 0.3, 1, 1)).measure(Load(concurrency=2))
    assert step.requests == 0
    assert list(step.errors) == ["UNAVAILABLE"]
    with delayed(5.0) as silent:
        step = bench_of(silent.address(protocol), Durations(0.3, 0.5, 1, 1), timeout=0.1).measure(Load(concurrency=2))
    assert step.requests == 0
    assert list(step.errors) == ["DEADLINE_EXCEEDED"]


def test_the_highest_rate_that_keeps_a_limit_is_found() -> None:
    class Pretended(Bench):
        """Latency grows with the rate: 1 ms for every 10 requests a second."""

        def measure(self, load: Load, processes: int = 1) -> Any:
            window = Window(1.0)
            rate = load.rate or 1000.0
            window.latencies.record_value(round(100 * rate), round(rate))
            return step_of(load, [window], processes=processes, steady=True, server_ms=None)

    made = Pretended(Address("grpc", "nowhere"), "", {1: ()})
    steps = list(highest_rate(made, lambda step: step.latency("p99") <= 30, batch=1))
    assert max(step.load.rate for step in steps[1:] if step.latency("p99") <= 30) == pytest.approx(300, rel=0.03)


def test_a_load_is_held_for_a_time(slow: Delayed) -> None:
    made = replace(bench_of(slow.rest), durations=Durations(warm_up=0.1, window=0.15, hold=0.5))
    step = made.measure(Load(concurrency=1))
    assert step.seconds == pytest.approx(0.5), "three windows fill it"


def test_ctrl_c_keeps_the_windows_that_are_complete(slow: Delayed) -> None:
    def progress(text: str) -> None:
        if "window 2" in text:
            raise KeyboardInterrupt

    made = replace(bench_of(slow.rest), progress=progress, durations=Durations(warm_up=0.1, window=0.15))
    with pytest.raises(MeasurementStopped) as stopped:
        made.measure(Load(concurrency=1))
    assert stopped.value.step.requests > 0
    assert stopped.value.step.seconds == made.durations.window


def test_a_process_that_ends_by_itself_is_an_error(slow: Delayed) -> None:
    with pytest.raises(GeneratorError, match="ended unexpectedly"):
        replace(bench_of(slow.rest), path="\ud800").measure(Load(concurrency=1))
