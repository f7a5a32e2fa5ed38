"""The load generator against a server of known delay, and the command against the embedded server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.clients.conftest import ENVIRONMENT, ROOT, Server, serving
from tests.servers import free_ports, wait_for
from tfserving.clients.address import Address, read_address
from tfserving.clients.answers import Signature, TensorInfo
from tfserving.clients.bench import load
from tfserving.clients.bench.bodies import BodiesError, bodies_of, made_up, of_rows
from tfserving.clients.bench.generator import Bench, GeneratorError, highest_rate
from tfserving.clients.bench.load import Durations, Load, Window, step_of
from tfserving.clients.bench.metrics import ServerTime
from tfserving.clients.cli import main
from tfserving.clients.errors import Call

DELAY = 0.1
SHORT = Durations(warm_up=0.3, window=0.5, windows=2, most=4)


@contextlib.contextmanager
def delayed(*seconds: float) -> Iterator[dict[str, Address]]:
    """The addresses of a server that answers after so many seconds."""
    grpc_port, rest_port = free_ports(2)
    command = [sys.executable, "-m", "tests.clients.delay_server", str(grpc_port), str(rest_port), *map(str, seconds)]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield {
            "grpc": read_address(f"grpc://127.0.0.1:{grpc_port}"),
            "rest": read_address(f"http://127.0.0.1:{rest_port}"),
        }
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, Address]]:
    with delayed(DELAY) as made:
        yield made


def bench_of(address: Address, durations: Durations = SHORT, **more: Any) -> Bench:
    return Bench(address, "/v1/models/m", {1: (b"body",)}, durations, **more)


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
def test_a_known_delay_is_reported_within_5_percent(addresses: dict[str, Address], protocol: str, load: Load) -> None:
    step = bench_of(addresses[protocol], processes=1).measure(load)
    assert step.percentiles["p50"] == pytest.approx(1000 * DELAY, rel=0.05)
    assert not step.errors
    assert not step.client_bound
    expected = load.rate if load.open else load.concurrency / DELAY
    assert step.throughput == pytest.approx(expected, rel=0.25)
    assert step.requests == pytest.approx(step.throughput * step.seconds)


def test_several_processes_share_a_load(addresses: dict[str, Address], protocol: str) -> None:
    load = Load(concurrency=6) if protocol == "grpc" else Load(rate=60, arrival="uniform")
    step = bench_of(addresses[protocol], processes=3).measure(load)
    assert step.processes == 3
    assert step.throughput == pytest.approx(60, rel=0.15)


@pytest.mark.parametrize("load", [Load(rate=100, arrival="uniform"), Load(concurrency=1)], ids=str)
def test_an_open_loop_counts_what_a_stall_keeps_waiting(load: Load) -> None:
    """A second of silence in two and a half: 40 % of what was meant to be sent waits, a quarter of that for long.

    A closed loop sends a single request into the silence, and would call 99 % of them quick.
    """
    with delayed(0.002, 1.0, 1.0) as addresses:
        step = bench_of(addresses["grpc"], Durations(0.5, 2.5, 1, 1)).measure(load)
    assert (step.percentiles["p90"] > 500) == load.open
    assert step.max_ms > 900


def test_a_client_that_can_not_ask_more_tries_with_more_processes_and_says_so(
    addresses: dict[str, Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a processor can ask differs; here one that does anything at all can't do more.
    monkeypatch.setattr(load, "BUSY", 0.0001)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    said: list[str] = []
    quick = Durations(warm_up=0.2, window=0.2, windows=1, most=1)
    step = bench_of(addresses["grpc"], quick, progress=said.append).measure(Load(concurrency=4))
    assert [line.split(" with ")[1] for line in said if "can't ask more" in line] == ["2 processes", "3 processes"]
    assert (step.processes, step.client_bound) == (3, True)


def test_errors_are_counted_by_kind_and_are_not_among_the_latencies(protocol: str) -> None:
    (port,) = free_ports(1)
    nobody = read_address(f"{'http' if protocol == 'rest' else 'grpc'}://127.0.0.1:{port}")
    step = bench_of(nobody, Durations(0.3, 0.3, 1, 1)).measure(Load(concurrency=2))
    assert step.requests == 0
    assert list(step.errors) == ["UNAVAILABLE"]
    with delayed(5.0) as addresses:
        step = bench_of(addresses[protocol], Durations(0.3, 0.5, 1, 1), timeout=0.1).measure(Load(concurrency=2))
    assert step.requests == 0
    assert list(step.errors) == ["DEADLINE_EXCEEDED"]


def test_the_highest_rate_that_keeps_a_limit_is_found() -> None:
    class Pretended(Bench):
        """Latency grows with the rate: 1 ms for every 10 requests a second."""

        def measure(self, load: Load, processes: int = 1) -> Any:
            window = Window(1.0)
            rate = load.rate or 1000.0
            for _ in range(round(rate)):
                window.latencies.record_value(round(100 * rate))
            return step_of(load, [window], processes=processes, stable=True, server_ms=None)

    steps = highest_rate(
        Pretended(Address("grpc", "nowhere"), "", {1: ()}), lambda step: step.latency("p99") <= 30, batch=1
    )
    assert max(step.load.rate for step in steps[1:] if step.latency("p99") <= 30) == pytest.approx(300, rel=0.03)


def test_a_process_that_ends_by_itself_is_an_error(addresses: dict[str, Address]) -> None:
    with pytest.raises(GeneratorError, match="ended by itself"):
        replace(bench_of(addresses["rest"]), path="\ud800").measure(Load(concurrency=1))


def test_steps_are_summed_over_their_windows() -> None:
    windows = [Window(1.0), Window(1.0)]
    for value in range(1, 1001):
        windows[value % 2].latencies.record_value(1000 * value)
    windows[0].errors["HTTP 503"] += 2
    step = step_of(Load(concurrency=1), windows, processes=1, stable=True, server_ms=None)
    assert (step.requests, step.throughput, step.failed) == (1000, 500, 2)
    assert step.percentiles == pytest.approx({"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}, rel=0.002)
    assert step.max_ms == pytest.approx(1000, rel=0.002)
    assert dict(step.curve)[50.0] == pytest.approx(500, rel=0.002)


def test_the_servers_own_time_is_that_of_the_requests_in_between() -> None:
    assert ServerTime(5000, 4).mean_ms(ServerTime(1000, 2)) == 2
    assert ServerTime(5000, 4).mean_ms(ServerTime(5000, 4)) is None


class TestBodies:
    """What is sent."""

    def test_numbers_are_made_up_for_every_input(self) -> None:
        inputs = {"x": TensorInfo("float32", (None, 3)), "n": TensorInfo("int64", ()), "d": TensorInfo("bool", (2,))}
        made = made_up("s", Signature("", inputs, {}, frozenset({"d"})))
        assert {name: (array.dtype.name, array.shape) for name, array in made.items()} == {
            "x": ("float32", (1, 3)),
            "n": ("int64", ()),
        }
        with pytest.raises(BodiesError, match="for which no values can be made up; give some by --input"):
            made_up("s", Signature("", {"s": TensorInfo("string", (None,))}, {}))

    def test_rows_are_repeated_or_cut(self) -> None:
        rows = {"x": np.arange(6).reshape(3, 2), "y": np.arange(3)}
        assert {name: len(array) for name, array in of_rows(rows, 5).items()} == {"x": 5, "y": 5}
        assert of_rows(rows, 4)["x"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
        assert of_rows(rows, 1)["y"].tolist() == [0]
        with pytest.raises(BodiesError, match="don't all have rows"):
            of_rows({"x": np.zeros(()), "y": np.zeros(2)}, 2)

    def test_what_a_protocol_can_not_carry_is_refused(self) -> None:
        with pytest.raises(BodiesError, match="no complex numbers"):
            bodies_of(Address("rest", ""), Call(signature="s"), [{"x": np.zeros(1, np.complex64)}])


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


class TestCommand:
    """`tfserving client bench`."""

    @pytest.fixture
    def quick(self, server: Server, protocol: str) -> list[str]:
        return ["--server", server.url(protocol), "--model", "scale", "--window", "0.3", "--warm-up", "0.3"]

    def test_it_shows_a_row_for_each_load(self, quick: list[str], tmp_path: Path) -> None:
        result = run(*quick, "--concurrency", "4", "--rate", "50", "--batch", "1,8", "--report", tmp_path / "b.html")
        assert result.exit_code == 0, result.output
        loads = ["4 at a time", "50/s", "4 at a time, batch 8", "50/s, batch 8"]
        rows = result.stdout.splitlines()[2:6]
        assert [row.startswith(f"{load}  ") for row, load in zip(rows, loads, strict=True)] == [True] * 4, rows
        page = (tmp_path / "b.html").read_text()
        assert page.count("<svg") == 2
        assert "4 at a time, batch 8" in page

    def test_json_can_be_compared_with_a_later_run(self, quick: list[str], tmp_path: Path) -> None:
        result = run(*quick, "--concurrency", "2", "--json")
        assert result.exit_code == 0, result.output
        (step,) = json.loads(result.stdout)["steps"]
        assert step["requests"] > 50
        assert set(step["percentiles"]) == {"p50", "p90", "p99", "p99.9"}
        (tmp_path / "before.json").write_text(result.stdout)
        before, page = tmp_path / "before.json", tmp_path / "b.html"
        later = run(*quick, "--concurrency", "2,4", "--compare", before, "--report", page)
        assert later.exit_code == 0, later.output
        assert later.output.count("against before") == 1
        assert "2 at a time, before" in page.read_text()

    def test_the_servers_own_time_is_shown(self, models: Path, tmp_path: Path) -> None:
        page = "/monitoring/prometheus/metrics"
        (tmp_path / "monitoring").write_text(f'prometheus_config {{ enable: true, path: "{page}" }}')
        with serving(models, tmp_path, None, f"--monitoring_config_file={tmp_path}/monitoring") as server:
            options = ("--model", "scale", "--window", "0.3", "--concurrency", "1", "--json")
            for target in (
                ["http://" + server.rest],
                ["grpc://" + server.grpc, f"--metrics=http://{server.rest}{page}"],
            ):
                (step,) = json.loads(run(*options, "--server", *target).stdout)["steps"]
                assert 0 < step["server_ms"] < step["mean_ms"]

    def test_golden_requests_are_sent_in_turn(self, server: Server, quick: list[str]) -> None:
        result = run(*quick, "--requests", server.models / "scale" / "2", "--concurrency", "1", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["steps"][0]["errors"] == {}

    def test_the_highest_rate_is_said(self, server: Server) -> None:
        options = (
            "--server",
            server.url("grpc"),
            "--model",
            "scale",
            "--window",
            "0.2",
            "--warm-up",
            "0.2",
            "--processes",
            "1",
        )
        result = run(*options, "--limit", "p50=1s")
        assert result.exit_code == 0, result.output
        assert "the highest rate with p50 at most 1000 ms: " in result.output

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--concurrency", "0"], "'0' is no list of numbers above 0"),
            (["--rate", "fast"], "'fast' is no list of numbers above 0"),
            (["--limit", "20ms"], "is no limit on"),
            (["--limit", "p99=1s", "--rate", "5"], "finds a rate by itself"),
            (["--input", "[[1, 2, 3]]", "--requests", "x"], "give one of them"),
            (["--input", "[[1, 2]]"], "wants float32 (-1, 3)"),
            (["--signature", "nope"], "scale has no signature 'nope'"),
            (["--signature", "upper"], "no values can be made up"),
            (["--signature", "single", "--batch", "2"], "don't all have rows"),
            (["--requests", "nowhere"], "is no folder"),
            (["--compare", __file__], "is not what bench --json wrote"),
            (["--report", "report.pdf"], "does not end with .html"),
        ],
    )
    def test_what_can_not_be_meant_is_refused_at_once(self, quick: list[str], options: list[str], said: str) -> None:
        result = run(*quick, *options)
        assert result.exit_code in (1, 2), result.output
        assert said in " ".join(result.stderr.split())

    def test_ctrl_c_ends_it_and_its_processes(self, quick: list[str]) -> None:
        command = [sys.executable, "-m", "tfserving", "client", "bench", *quick, "--concurrency", "1", "--window", "60"]
        process = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        children: list[str] = []

        def has_children() -> bool:
            children[:] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return bool(children)

        wait_for(has_children, 30)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130
        assert errors.strip() == "Interrupted."
        wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 10)
