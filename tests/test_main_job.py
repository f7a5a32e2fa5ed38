"""The whole job as a user does it: serve, query, verify, a new version under load, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import re
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

from tests.exporting import export_scaled
from tests.rounding import assert_rounding_only
from tests.servers import EMBEDDED, ModelServer, Served, free_ports, serve, wait_for
from tfserving.clients import connect
from tfserving.foundation.model_server import VARIABLE

# What uses the server of the first command stays with the README's tests, which use it, too.
beside_the_readme = pytest.mark.xdist_group("served")


def run(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `command` to its end, keeping what it prints."""
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, text=True, capture_output=True, check=False, timeout=280
    )


def servers_with(text: str) -> list[psutil.Process]:
    """The model servers that have `text` in their command line."""
    servers = ("tfserving.serving.embedded", "tensorflow_model_server", "tests.stand_in")
    commands = {process: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
    return [
        process
        for process, words in commands.items()
        if text in words and any(word.endswith(server) for server in servers for word in words)
    ]


@pytest.fixture(scope="module")
def scaled_fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fleet of one model, `scaled`, whose versions 1 and 2 have the scales 1 and 2."""
    folder = tmp_path_factory.mktemp("scaled")
    fleet = folder / "models.yaml"
    fleet.write_text("models:\n  scaled:\n    builder: tests.scaled:build\n")
    export_scaled(fleet, (1, 2))
    return folder


@pytest.fixture
def scaled(scaled_fleet: Path, tmp_path: Path) -> Path:
    """A copy of version 1 of that fleet for one test to change; returns its models.yaml."""
    shutil.copytree(scaled_fleet, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("2"))
    return tmp_path / "models.yaml"


def serving_run(fleet: Path, engine: ModelServer = EMBEDDED) -> list[str]:
    ports = ["--port", "{port}", "--rest-port", "{rest_port}", "--engine", engine.name]
    return [sys.executable, "-m", "tfserving", "serve", "--fleet", str(fleet), *ports]


@beside_the_readme
def test_the_first_command_exports_serves_and_says_where_it_listens(served: Served, clone: Path) -> None:
    assert "Serving 2 models with the embedded server:" in served.output
    assert re.search(r"^  digits +version 1, the newest$", served.output, re.M)
    assert re.search(r"^  dense +version 1, the newest$", served.output, re.M)
    assert f"127.0.0.1:{served.grpc_port}" in served.output
    assert f"http://127.0.0.1:{served.rest_port}" in served.output
    manifest = json.loads((clone / "models/digits/1/assets.extra/manifest.json").read_text())
    assert manifest["metrics"]["test_accuracy"]["value"] >= 0.97


@beside_the_readme
def test_the_server_alone_imports_tensorflow(served: Served, clone: Path) -> None:
    """Of all that `make serve` runs once the models are exported."""
    command = psutil.Process(served.process.pid)
    running = [command, *command.children(recursive=True)]
    mapping = [one for one in running if "libtensorflow" in Path(f"/proc/{one.pid}/maps").read_text()]
    assert [one.cmdline()[1:3] for one in mapping] == [["-m", "tfserving.serving.embedded"]]
    for words in (("serve", "status"), ("export", "build", "--missing")):
        done = run([sys.executable, "-X", "importtime", "-m", "tfserving", *words], clone)
        assert done.returncode == 0, done.stderr
        assert re.search(r"\| +tfserving\.cli$", done.stderr, re.M)
        assert not re.search(r"\| +tensorflow$", done.stderr, re.M)


@beside_the_readme
def test_every_printed_query_can_be_pasted(served: Served, clone: Path) -> None:
    after = served.output.partition("Send a request from another shell:\n")[2]
    queries = [line for line in after.splitlines() if line.startswith("  ")]
    assert len(queries) == 2, served.output
    for query in queries:
        done = run(["sh", "-c", query], clone)
        assert done.returncode == 0, done.stderr
        assert "scores" in done.stdout
        assert "label" in done.stdout


@beside_the_readme
def test_make_verify_finds_every_golden_request_equal(served: Served, clone: Path) -> None:
    done = run(["make", "verify"], clone, served.env)
    assert done.returncode == 0, done.stdout + done.stderr
    report = run(
        [
            *(sys.executable, "-m", "tfserving", "verify", "--json"),
            *("--server", f"{served.url('grpc')},{served.url('rest')}"),
        ],
        clone,
    )
    rows = json.loads(report.stdout)["rows"]
    assert {(row["model"], row["protocol"], row["output"]) for row in rows} == {
        (model, protocol, output)
        for protocol in ("grpc", "rest")
        for model, output in (("digits", "scores"), ("digits", "label"), ("dense", "logits"))
    }
    assert all(row["ok"] and row["requests"] == 5 for row in rows)
    assert_rounding_only(rows)


@beside_the_readme
def test_doctor_recognizes_the_server_of_the_project(served: Served, clone: Path) -> None:
    ports = ("--port", str(served.grpc_port), "--rest-port", str(served.rest_port))
    done = run([sys.executable, "-m", "tfserving", "doctor", "--json", *ports], clone, served.env)
    assert done.returncode == 0, done.stdout
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    for port in (served.grpc_port, served.rest_port):
        assert checks[f"port {port}"]["found"] == "in use by this project's embedded server, which is running"


def test_predictions_during_a_version_swap_are_wholly_of_one_version(
    clone: Path, scaled_fleet: Path, scaled: Path, engine: ModelServer
) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    newer = Path(shutil.copytree(scaled_fleet / "models/scaled/2", scaled.parent / "models/scaled/.tmp-newer"))
    with serve(serving_run(scaled, engine), clone) as server, ThreadPoolExecutor(16) as pool:
        urls = (f"grpc://127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.rest_port}")
        with connect(urls[0]) as grpc, connect(urls[1]) as rest:
            answers: list[float] = []

            def predict(number: int) -> float:
                sums = (grpc, rest)[number % 2].predict("scaled", {"rows": rows}, timeout=60).outputs["sums"]
                scales = set((sums / rows.sum(axis=1)).tolist())
                assert len(scales) == 1, f"one answer mixes versions: {sums}"
                return float(scales.pop())

            # At least 200, and on until the new version has answered.
            while len(answers) < 200 or answers[-1] != 2.0:
                answers += pool.map(predict, range(40))
                if len(answers) == 120:
                    # As an export does when all of the version is written.
                    newer.rename(scaled.parent / "models/scaled/2")
    assert set(answers) == {1.0, 2.0}
    assert len(answers) >= 200


def test_a_weight_changed_on_disk_fails_verification_by_name(clone: Path, scaled: Path, engine: ModelServer) -> None:
    import tensorflow as tf

    variables = str(scaled.parent / "models/scaled/1/variables/variables")
    values = {name: tf.train.load_variable(variables, name) for name, _ in tf.train.list_variables(variables)}
    changed = [value * 1.001 if getattr(value, "dtype", None) == "float32" else value for value in values.values()]
    tf.raw_ops.SaveV2(
        prefix=variables,
        tensor_names=[*values],
        shape_and_slices=[""] * len(values),
        tensors=[*map(tf.constant, changed)],
    )
    with serve(serving_run(scaled, engine), clone) as server:
        both = ["--server", f"{server.url('grpc')},{server.url('rest')}"]
        done = run([sys.executable, "-m", "tfserving", "verify", *both, str(scaled.parent / "models")], clone)
    assert done.returncode == 1
    for protocol in ("gRPC", "REST"):
        assert re.search(rf"^scaled +1 +serving_default +{protocol} +sums +5 +\S+ +\S+ +different$", done.stdout, re.M)
        reason = rf"scaled version 1, signature 'serving_default', output 'sums' over {protocol}: request \d: .*: got "
        assert re.search(reason, done.stdout), done.stdout
    assert "2 of 2 comparisons failed, the first: scaled version 1, signature 'serving_default', output" in done.stdout


def test_a_version_that_does_not_load_is_named_and_nothing_is_left_running(
    clone: Path, scaled: Path, engine: ModelServer
) -> None:
    model = scaled.parent / "models/scaled/1/saved_model.pb"
    model.write_bytes(model.read_bytes()[:100])
    port, rest_port = free_ports(2)
    command = [part.format(port=port, rest_port=rest_port) for part in serving_run(scaled, engine)]
    done = run(command, clone)
    assert done.returncode == 1
    ended = f"the {engine.name} server ended before every model was available: exit code {engine.refused(1)}"
    assert ended in done.stderr
    # The last lines of the server name the version: each server in its own words.
    assert re.search(
        r"/scaled/1\b" if not engine.embedded else r"model 'scaled' version 1 in .*/scaled/1: ", done.stderr
    )
    assert "Traceback" not in done.stderr
    assert servers_with(f"--port={port}") == []


def test_ctrl_c_stops_the_server_and_ends_with_0(clone: Path, scaled: Path, engine: ModelServer) -> None:
    with serve(serving_run(scaled, engine), clone) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
        assert servers_with(f"--port={server.grpc_port}") == []


def test_a_killed_command_leaves_no_server(clone: Path, scaled: Path, engine: ModelServer) -> None:
    with serve(serving_run(scaled, engine), clone) as server:
        assert len(servers_with(f"--port={server.grpc_port}")) == 1
        server.process.kill()
        wait_for(lambda: not servers_with(f"--port={server.grpc_port}"), what="the end of the server")


def test_the_native_engine_serves_what_is_verified(clone: Path, scaled: Path, stand_in: Path) -> None:
    # `auto` prefers it.
    command = serving_run(scaled)
    with serve(command[: command.index("--engine")], clone, {VARIABLE: str(stand_in)}) as server:
        assert "with the native server:" in server.output
        both = ["--server", f"{server.url('grpc')},{server.url('rest')}"]
        models = str(scaled.parent / "models")
        done = run([sys.executable, "-m", "tfserving", "verify", *both, models], clone)
        assert done.returncode == 0, done.stdout + done.stderr
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
        assert servers_with(f"--port={server.grpc_port}") == []


def test_a_port_that_is_taken_is_named_before_anything_is_exported(clone: Path) -> None:
    port, rest_port = free_ports(2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = run(["make", "serve", f"PORT={port}", f"REST_PORT={rest_port}"], clone)
    assert done.returncode != 0
    assert f"--port={port}: can't listen on port {port} of 127.0.0.1: Address already in use" in done.stderr
    assert "Starting" not in done.stderr
    assert "Traceback" not in done.stderr


def free_port_options() -> list[str]:
    port, rest_port = free_ports(2)
    return ["--port", str(port), "--rest-port", str(rest_port)]


def test_where_no_docker_engine_runs_that_is_said(clone: Path) -> None:
    done = run([sys.executable, "-m", "tfserving", "serve", "--engine", "docker", *free_port_options()], clone)
    assert done.returncode == 3
    assert "engine 'docker' can't be used: no Docker Engine is running: its socket does not exist" in done.stderr


def test_an_engine_that_is_not_there_is_an_error(clone: Path) -> None:
    env = {"PATH": str(clone), VARIABLE: ""}
    done = run([sys.executable, "-m", "tfserving", "serve", "--engine", "native", *free_port_options()], clone, env)
    assert done.returncode == 2
    assert "no tensorflow_model_server is on PATH; install it, or set TENSORFLOW_MODEL_SERVER" in done.stderr


@pytest.mark.parametrize("command", [["serve", "--no-export"], ["predict", "scaled"]], ids=" ".join)
def test_a_model_that_was_never_exported_is_named_with_what_to_do(
    clone: Path, tmp_path: Path, command: list[str]
) -> None:
    fleet = tmp_path / "models.yaml"
    fleet.write_text("models:\n  scaled:\n    builder: tests.scaled:build\n")
    port, rest_port = free_ports(2)
    ports = ["--port", str(port), "--rest-port", str(rest_port)] if command[0] == "serve" else []
    done = run([sys.executable, "-m", "tfserving", *command, "--fleet", str(fleet), *ports], clone)
    assert done.returncode == 2
    assert f"model 'scaled' has no version in {tmp_path}/models/scaled" in done.stderr
    assert f"export build scaled --fleet {fleet}`" in done.stderr
