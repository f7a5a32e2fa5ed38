"""What keeps a server from starting, and that nothing is left running then."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ModelServer
from tests.serving.embedded.running import ROOT, Asker, Process, Start, embedded_only, free_port, together, wait_until

pytestmark = together


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


@embedded_only
@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_a_taken_port_is_named_with_its_flag(start_command: Start, models: Path, taken: int, flag: str) -> None:
    ports = {"grpc_port" if flag == "port" else "rest_port": taken}
    server = start_command("--model_name=scale", f"--model_base_path={models}/scale", **ports)

    assert server.wait() == 1
    (line,) = server.lines
    _, said = line.split(" ", 1)
    assert said == f"error: --{flag}={taken}: can't listen on port {taken} of 127.0.0.1: Address already in use\n"


@embedded_only
def test_a_second_server_on_the_same_ports_does_not_start(start_command: Start, models: Path, server: Process) -> None:
    second = start_command("--model_name=scale", f"--model_base_path={models}/scale", grpc_port=server.grpc_port)

    assert second.wait() == 1
    assert f"--port={server.grpc_port}" in second.output


def test_models_that_do_not_load_are_named_with_version_path_and_cause(
    start: Start, models: Path, tmp_path: Path, engine: ModelServer
) -> None:
    config = tmp_path / "models.config"
    config.write_text(
        "model_config_list {"
        + "".join(
            f'config {{ name: "{name}" base_path: "{models}/{name}" model_platform: "tensorflow" }}'
            for name in ("broken", "scale", "badwarm")
        )
        + "}"
    )
    server = start(f"--model_config_file={config}", "--max_num_load_retries=1", "--load_retry_interval_micros=1000")

    assert server.wait() == engine.refused(1)
    assert "2 servable(s) did not become available:" in server.output
    if engine.embedded:
        output = server.output
        assert "error: 2 servable(s) did not become available:\n" in output
        assert f"model 'broken' version 1 in {models}/broken/1: OUT_OF_RANGE: Read less bytes than requested" in output
        assert f"model 'badwarm' version 1 in {models}/badwarm/1: INVALID_ARGUMENT: Signature input alias: x" in output
        assert len(re.findall(r"model 'broken' version 1 failed to load", output)) == 2
        assert "serving:" not in output
        assert "Traceback" not in output


@embedded_only
def test_a_signal_while_a_load_waits_to_be_tried_again_ends_quietly(start_command: Start, models: Path) -> None:
    server = start_command("--model_name=broken", f"--model_base_path={models}/broken")
    wait_until("a failed load", lambda: server.says("tried again in 60 s, 5 more times"), 120)
    server.signal(signal.SIGTERM)

    assert server.wait(20) == 0


def test_a_warm_up_can_be_left_out(start: Start, models: Path) -> None:
    server = start("--model_name=badwarm", f"--model_base_path={models}/badwarm", "--enable_model_warmup=false")

    server.ready()


def test_ports_open_only_when_the_models_are_there(start: Start, models: Path, engine: ModelServer) -> None:
    server = start("--model_name=scale", f"--model_base_path={models}/scale")
    if not engine.embedded:
        # What the real one says is its own; that it answers says enough.
        wait_until("gRPC", lambda: server.opened(server.grpc_port), 120)
        assert Asker(server).state("scale", 2) == "AVAILABLE"
        return
    opened_early = False
    while not server.says("serving: "):
        for port in (server.grpc_port, server.rest_port):
            if server.opened(port) and not opened_early:
                # What it said before it opened the port may still be on its way here.
                try:
                    wait_until("the model", lambda: server.says("version 2 is available"), 0.5)
                except AssertionError:
                    opened_early = True
        assert server.process.poll() is None, server.output

    assert not opened_early
    assert server.output.endswith(
        f"serving: gRPC on 127.0.0.1:{server.grpc_port}, REST on 127.0.0.1:{server.rest_port}; models: scale 2\n"
    )


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        ([], 2, "No model to serve; give --model_base_path or --model_config_file."),
        (["--model_base_path=relative"], 2, "--model_base_path=relative: a base path must be absolute"),
        (["--model_config_file=/no/such/file"], 2, "--model_config_file=/no/such/file: No such file or directory"),
    ],
)
def test_a_configuration_that_can_not_work_is_refused_before_anything_starts(
    start_command: Start, engine: ModelServer, flags: list[str], code: int, text: str
) -> None:
    server = start_command(*flags)

    assert server.wait(10) == engine.refused(code)
    assert text in server.output or not engine.embedded
    assert "Traceback" not in server.output


# The real server waits for ever.
@embedded_only
@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--model_base_path=/no/such/folder"],
            "model 'default': base path /no/such/folder: No such file or directory",
        ),
        (["--model_base_path=/", "--model_name=m"], "model 'm': base path / has no version"),
    ],
)
def test_a_model_that_nobody_waits_for_is_refused_before_anything_starts(
    start_command: Start, flags: list[str], text: str
) -> None:
    server = start_command(*flags, "--file_system_poll_wait_seconds=0")

    assert server.wait(10) == 1
    assert text in server.output
    assert "Traceback" not in server.output


def test_a_model_without_a_version_is_waited_for(
    start: Start, models: Path, tmp_path: Path, engine: ModelServer
) -> None:
    server = start(f"--model_base_path={tmp_path}/later", engine.polls(0.1))

    def waits(why: str) -> None:
        if engine.embedded:
            text = f"waiting: model 'default': base path {tmp_path}/later{why}"
            wait_until("it waits", lambda: server.says(text))
        assert not server.opened(server.grpc_port)

    waits(": No such file")
    (tmp_path / "later").mkdir()
    waits(" has no version")
    (tmp_path / "later/1").symlink_to(models / "scale/1")

    assert server.ready().output.count("waiting: ") == (2 if engine.embedded else 0)


# The real server has no flag for an address: it listens on all of them.
@embedded_only
def test_a_host_that_is_no_address_of_this_machine(start_command: Start, models: Path) -> None:
    port = free_port()
    server = start_command(f"--model_base_path={models}/scale", "--host=192.0.2.1", grpc_port=port)

    assert server.wait(10) == 1
    assert f"--port={port}: can't listen on port {port} of 192.0.2.1" in server.output


def test_the_garbage_collector_leaves_alone_what_was_imported() -> None:
    code = (
        "import gc; from tfserving.serving.embedded.processes.process import *; prepare_process(); import_tensorflow()"
    )
    command = [sys.executable, "-c", f"{code}; print(gc.get_freeze_count())"]
    assert int(subprocess.check_output(command, cwd=ROOT, text=True)) > 100_000
