"""`tfserving bench` against the embedded server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.clients.conftest import ENVIRONMENT, ROOT, UNDER_LOAD, Server
from tests.servers import wait_for
from tfserving.cli import tfserving
from tfserving.clients.bench import generator

pytestmark = UNDER_LOAD
SHORTEST = ("--window", "0.1", "--warm-up", "0.1")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(tfserving, ["bench", *map(str, arguments)])


@pytest.fixture
def quick(server: Server, protocol: str) -> list[str]:
    return ["--server", server.url(protocol), "scale", "--window", "0.2", "--warm-up", "0.2"]


def test_it_shows_a_row_for_each_load(quick: list[str], tmp_path: Path) -> None:
    loads = ["--concurrency", "4", "--rate", "50", "--batch", "1,8", "--processes", "1"]
    result = run(*quick, *SHORTEST, *loads, "--report", tmp_path / "b.html")
    assert result.exit_code == 0, result.output
    shown = ["4 at a time", "50/s", "4 at a time, batch 8", "50/s, batch 8"]
    rows = result.stdout.splitlines()[2:6]
    assert [row.startswith(f"{load}  ") for row, load in zip(rows, shown, strict=True)] == [True] * 4, rows
    page = (tmp_path / "b.html").read_text()
    assert page.count("<svg") == 2
    assert "4 at a time, batch 8" in page


def test_json_can_be_compared_with_a_later_run(quick: list[str], tmp_path: Path) -> None:
    result = run(*quick, "--concurrency", "2", "--json")
    assert result.exit_code == 0, result.output
    (step,) = json.loads(result.stdout)["steps"]
    assert step["requests"] > 50
    assert 0 < step["latency_p50_ms"] <= step["latency_p99_9_ms"] <= step["latency_max_ms"]
    assert step["load"] == {"concurrency": 2, "rate_per_second": 0.0, "arrival": "poisson", "batch_rows": 1}
    (tmp_path / "before.json").write_text(result.stdout)
    before, page = tmp_path / "before.json", tmp_path / "b.html"
    later = run(*quick, *SHORTEST, "--concurrency", "2,4", "--compare", before, "--report", page)
    assert later.exit_code == 0, later.output
    assert later.output.count("  change ") == 1
    assert "2 at a time, before" in page.read_text()


def test_the_servers_own_time_is_shown(server: Server, quick: list[str], protocol: str) -> None:
    # REST's page is found by itself.
    metrics = () if protocol == "rest" else (f"--metrics=http://{server.rest}/monitoring/prometheus/metrics",)
    (step,) = json.loads(run(*quick, *metrics, "--concurrency", "1", "--json").stdout)["steps"]
    assert 0 < step["server_latency_mean_ms"] < step["latency_mean_ms"]


def test_golden_requests_are_sent_in_turn(server: Server, quick: list[str]) -> None:
    result = run(*quick, "--requests", server.models / "scale" / "2", "--concurrency", "1", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"][0]["errors"] == {}


def test_the_highest_rate_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # The search is shorter, and otherwise what it is.
    monkeypatch.setattr(generator, "highest_rate", partial(generator.highest_rate, steps=2))
    asked = ("--server", server.url("grpc"), "scale", "--processes", "1")
    result = run(*asked, *SHORTEST, "--limit", "p50=1s")
    assert result.exit_code == 0, result.output
    assert "highest rate with p50 up to 1000 ms: " in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--concurrency", "0"], "'0' is not a list of numbers above 0"),
        (["--rate", "fast"], "'fast' is not a list of numbers above 0"),
        (["--limit", "20ms"], "is not a limit on"),
        (["--limit", "p99=1s", "--rate", "5"], "--limit finds the rate"),
        (["--input", "[[1, 2, 3]]", "--requests", "x"], "give one of them"),
        (["--input", "[[1, 2]]"], "expects float32 (?, 3)"),
        (["--signature", "nope"], "scale version 2 lacks signature 'nope'"),
        (["--signature", "upper"], "can't be generated; give --input or --requests"),
        (["--signature", "single", "--batch", "2"], "don't have the same number of rows"),
        (["--requests", "nowhere"], "there is no folder nowhere"),
        (["--requests", "/nowhere"], "there is no file or folder /nowhere."),
        (["--requests", ""], "--requests: expected a model, a folder or a file"),
        (["--compare", __file__], "is not the output of `bench --json`"),
        (["--report", "report.pdf"], "does not end with .html"),
        (["--rate", "inf"], "'inf' is not a list of numbers above 0"),
        (["--rate", "nan"], "'nan' is not a list of numbers above 0"),
        (["--concurrency", "1000000000"], "1e+09 is too large, the limit is 10000"),
        (["--processes", "99999"], "99999 is not in the range 0<=x<="),
        (
            ["--batch", "1000000000"],
            "a request of 1000000000 rows has 12000000000 bytes, the limit is 536870912",
        ),
        (["--window", "inf"], "inf is not a number of seconds up to"),
        (["--timeout", "nan"], "nan is not a number of seconds up to"),
        (["--limit", "p99=1.2.3ms"], "is not a limit on"),
    ],
)
def test_what_can_not_be_meant_is_refused_at_once(quick: list[str], options: list[str], said: str) -> None:
    result = run(*quick, *options)
    assert result.exit_code in (1, 2), result.output
    assert said in " ".join(result.stderr.split())


@pytest.mark.parametrize("rate", ["1000000", "1e9"])
def test_a_rate_that_no_client_can_ask_ends_in_time_and_is_said(quick: list[str], rate: str) -> None:
    started = time.monotonic()
    result = run(*quick, *SHORTEST, "--rate", rate, "--processes", "1")
    assert time.monotonic() - started < 40
    assert "the client is the bottleneck: 1 of its processes can't send more than " in result.output


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("http://127.0.0.1:1/x", "failed to connect"),
        ("http://{rest}/v1/models/scale", "it has no :tensorflow:serving:request_latency of the model 'scale'"),
        ("http://{rest}/nowhere", "HTTP 404"),
        ("metrics.txt", "'metrics.txt' is not the URL of a page"),
    ],
)
def test_a_metrics_page_that_can_not_be_read_is_left_out_with_a_word(server: Server, page: str, said: str) -> None:
    url = page.format(rest=server.rest)
    asked = ("--server", server.url("grpc"), "scale", "--concurrency", "1", "--metrics", url)
    result = run(*asked, *SHORTEST, "--json")
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Warning: the server's own latency is left out: --metrics {url}: ")
    assert said in line or said.replace("HTTP 404", "Not Found") in line, line


def test_a_report_that_can_not_be_written_does_not_lose_the_result(server: Server, tmp_path: Path) -> None:
    (tmp_path / "full.html").symlink_to("/dev/full")
    asked = ("--server", server.url("grpc"), "scale", "--concurrency", "1", *SHORTEST)
    result = run(*asked, "--report", tmp_path / "full.html")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[2].startswith("1 at a time  ")
    assert result.stderr == f"Error: the report {tmp_path}/full.html can't be written: No space left on device\n"


def test_ctrl_c_ends_it_and_its_processes(quick: list[str]) -> None:
    command = [sys.executable, "-m", "tfserving", "bench", *quick, "--concurrency", "1", "--window", "60"]
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
    assert errors.strip() == "Stopped."
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 10)
