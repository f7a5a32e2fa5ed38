"""The whole job as a user does it: serve, query, verify, a new version under load, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from clients import connect
from tests.servers import Served, free_ports, serve, wait_for


def run(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `command` to its end, keeping what it prints."""
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, text=True, capture_output=True, check=False, timeout=280
    )


def servers_of(folder: Path) -> list[psutil.Process]:
    """The embedded servers that run in `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(folder) and "serving.embedded" in (process.info["cmdline"] or []):
            found.append(process)
    return found


def test_the_first_command_exports_serves_and_says_where_it_listens(served: Served, clone: Path) -> None:
    assert "Serving 2 models with the embedded server:" in served.output
    assert re.search(r"^  digits +version 1$", served.output, re.M)
    assert re.search(r"^  dense +version 1$", served.output, re.M)
    assert f"127.0.0.1:{served.grpc_port}" in served.output
    assert f"http://127.0.0.1:{served.rest_port}" in served.output
    manifest = json.loads((clone / "models/digits/1/assets.extra/manifest.json").read_text())
    assert manifest["metrics"]["test_accuracy"] >= 0.97


def test_every_printed_query_can_be_pasted(served: Served, clone: Path) -> None:
    queries = [line.strip() for line in served.output.splitlines() if line.startswith("  curl") or "clients" in line]
    assert len(queries) == 2, served.output
    for query in queries:
        done = run(shlex.split(query), clone)
        assert done.returncode == 0, done.stderr
        assert "scores" in done.stdout
        assert "label" in done.stdout


def test_make_query_asks_over_grpc(served: Served, clone: Path) -> None:
    done = run(["make", "query", "MODEL=digits"], clone, served.env)
    assert done.returncode == 0, done.stderr
    assert "label" in done.stdout


def test_make_verify_finds_every_golden_request_equal(served: Served, clone: Path) -> None:
    done = run(["make", "verify"], clone, served.env)
    assert done.returncode == 0, done.stdout + done.stderr
    report = run(
        [
            *(sys.executable, "-m", "clients", "verify", "models", "--json"),
            *("--grpc", f"127.0.0.1:{served.grpc_port}", "--rest", f"127.0.0.1:{served.rest_port}"),
        ],
        clone,
    )
    rows = json.loads(report.stdout)["rows"]
    assert {(row["model"], row["protocol"], row["output"]) for row in rows} == {
        (model, protocol, output)
        for protocol in ("grpc", "rest")
        for model, output in (("digits", "scores"), ("digits", "label"), ("dense", "logits"))
    }
    assert all(row["verdict"] == "equal" and row["requests"] >= 4 for row in rows)


def test_a_port_that_is_taken_is_named_before_anything_is_exported(clone: Path, tmp_path: Path) -> None:
    port, rest_port = free_ports(2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        fleet = tmp_path / "models.yaml"
        shutil.copy(clone / "models.yaml", fleet)
        done = run(["make", "serve", f"PORT={port}", f"REST_PORT={rest_port}"], clone)
    assert done.returncode != 0
    assert f"port {port} of 127.0.0.1, wanted for gRPC: Address already in use; give another with --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_docker_says_that_it_comes_later(clone: Path) -> None:
    done = run([sys.executable, "-m", "serving", "run", "--engine", "docker"], clone)
    assert done.returncode == 2
    assert "can't run TensorFlow Serving in Docker yet; use native or embedded" in done.stderr


def test_an_engine_that_is_not_there_is_an_error(clone: Path) -> None:
    env = {"PATH": str(clone)}
    done = run([sys.executable, "-m", "serving", "run", "--engine", "native"], clone, env)
    assert done.returncode == 2
    assert "no tensorflow_model_server is on PATH" in done.stderr
