"""What keeps a server from starting, and that nothing is left running then."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.authority import Authority
from tests.servers import EMBEDDED, ModelServer
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
    assert said == (
        f"error: --{flag}={taken}: can't listen on port {taken} of 127.0.0.1: Address already in use. Stop the process "
        f"that uses the port, or set another --{flag}\n"
    )


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
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_while_tensorflow_is_imported_ends_at_once_and_quietly(
    start_command: Start, models: Path, workers: int
) -> None:
    server = start_command(f"--model_base_path={models}/scale", f"--workers={workers}")
    maps = Path(f"/proc/{server.process.pid}/maps")
    wait_until("the import of TensorFlow", lambda: "libtensorflow" in maps.read_text())
    server.signal(signal.SIGINT)

    assert server.wait(10) == 0
    assert server.output == ""


def test_closed_standard_files_are_no_sockets_later(models: Path) -> None:
    ports = free_port(), free_port()
    flags = (f"--model_base_path={models}/scale", "--workers=2", "--access_log")
    command = [*EMBEDDED.command, f"--port={ports[0]}", f"--rest_api_port={ports[1]}", *flags]
    server = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], cwd=ROOT)
    try:
        wait_until("an answer", lambda: status(ports[1]) is not None or server.poll() is not None, 120)
        # The first lines of the access log are written by now.
        assert [status(ports[1]) for _ in range(5)] == [200] * 5
        server.terminate()
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()


def status(port: int) -> int | None:
    """The status of a request to a model, None as long as nobody listens."""
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/v1/models/default", trust_env=False).status_code
    except httpx2.ConnectError:
        return None


def test_a_server_needs_no_temporary_folder(models: Path, authority: Authority) -> None:
    ports = free_port(), free_port()
    tls = ("--rest_api_enable_tls", f"--ssl_config_file={authority.config('start.config')}")
    flags = (f"--port={ports[0]}", f"--rest_api_port={ports[1]}", f"--model_base_path={models}/scale", *tls)
    # As on a read-only disk, for who looks for a folder.
    code = "import tempfile; tempfile._candidate_tempdir_list = lambda: []; import runpy; "
    run = code + "runpy.run_module('tfserving.serving.embedded', run_name='__main__')"
    with subprocess.Popen(
        [sys.executable, "-c", run, *flags, "--workers=2"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if "serving: " in line:
                server.terminate()
        assert server.wait(30) == 0, said
    assert any("serving: " in line for line in said)


@embedded_only
def test_a_version_of_whatever_hurts_no_other(start: Start, models: Path, tmp_path: Path) -> None:
    good = models / "scale" / "1"
    base = tmp_path / "m"
    shutil.copytree(good, base / "1")
    for number in (2, 3, 4):
        (base / str(number)).mkdir()
    os.mkfifo(base / "2" / "saved_model.pb")
    (base / "3" / "saved_model.pb").mkdir()
    (base / "4" / "saved_model.pb").symlink_to("saved_model.pb")
    for number in (5, 6, 7, 8):
        shutil.copytree(good, base / str(number))
    (base / "5" / "variables" / "variables.index").unlink()
    os.mkfifo(base / "5" / "variables" / "variables.index")
    os.truncate(base / "6" / "saved_model.pb", 2**31)
    (base / "7" / "assets.extra").mkdir()
    os.mkfifo(base / "7" / "assets.extra" / "tf_serving_warmup_requests")
    # What TensorFlow doesn't read may be anything.
    (base / "8" / "up").symlink_to("..")
    os.mkfifo(base / "8" / "pipes")
    (base / "9").symlink_to("9")
    for number in range(1000, 3000):
        (base / str(number)).touch()
    (tmp_path / "config").write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "file://{base}" model_platform: "tensorflow" '
        "model_version_policy { all {} } } }"
    )
    server = start(f"--model_config_file={tmp_path}/config", "--max_num_load_retries=0").ready()

    states = Asker(server).status("m")
    assert {version for version, (state, _) in states.items() if state == "AVAILABLE"} == {1, 8}
    assert set(states) == set(range(1, 9))
    for version, why in (
        (2, f"{base}/2/saved_model.pb is neither a file nor a folder"),
        (3, "Specified file path does not appear to contain a SavedModel bundle"),
        (4, "Specified file path does not appear to contain a SavedModel bundle"),
        (5, f"{base}/5/variables/variables.index is neither a file nor a folder"),
        (6, f"{base}/6/saved_model.pb has {2**31} bytes; a SavedModel's graph has at most"),
        (7, f"{base}/7/assets.extra/tf_serving_warmup_requests is neither a file nor a folder"),
    ):
        assert states[version][1].startswith(why), states[version]


@embedded_only
def test_a_signal_while_a_load_waits_to_be_tried_again_ends_quietly(start_command: Start, models: Path) -> None:
    server = start_command("--model_name=broken", f"--model_base_path={models}/broken")
    wait_until("a failed load", lambda: server.says("retrying in 60 s, 5 more times"), 120)
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
        f"serving: gRPC on 127.0.0.1:{server.grpc_port} (pygrpc-native), REST on 127.0.0.1:{server.rest_port}; "
        "models: scale 2; device: CPU\n"
    )


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        ([], 2, "No model to serve. Set --model_base_path or --model_config_file."),
        (["--model_base_path=relative"], 2, "--model_base_path=relative: the path must be absolute"),
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
    ("seconds", "bases", "text"),
    [
        (0, ["/no/such/folder"], "model 'm0': can't read /no/such/folder: No such file or directory"),
        (0, ["{models}/scale", "/no/such/folder"], "model 'm1': can't read /no/such/folder: No such file or directory"),
        (0, ["/proc/version"], "model 'm0': can't read /proc/version: Not a directory"),
        (0, ["/"], "model 'm0': / contains no version: a version is a folder whose name is an integer"),
        (
            0,
            ["{models}/scale/1"],
            "model 'm0': {models}/scale/1 contains no version: move saved_model.pb, and all files beside it, into a "
            "folder named 1",
        ),
        (-1, ["{models}/scale"], "model 'm0': {models}/scale is not scanned"),
    ],
    ids=["missing", "one of two", "file", "empty", "version", "never"],
)
def test_what_nobody_looks_for_again_is_waited_for_all_the_same(
    start_command: Start, models: Path, tmp_path: Path, engine: ModelServer, seconds: int, bases: list[str], text: str
) -> None:
    config = tmp_path / "models.config"
    paths = [base.format(models=models) for base in bases]
    entries = (
        f'config {{ name: "m{number}" base_path: "{path}" model_platform: "tensorflow" }}'
        for number, path in enumerate(paths)
    )
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    server = start_command(f"--model_config_file={config}", f"--file_system_poll_wait_seconds={seconds}")

    if engine.embedded:
        wait_until("it waits", lambda: server.says("the base paths are not scanned again"))
        assert f"waiting for {text.format(models=models)}" in server.output
    assert not server.opened(server.grpc_port)
    server.signal(signal.SIGTERM)
    assert server.wait(10) == (0 if engine.embedded else -signal.SIGTERM)
    assert "Traceback" not in server.output


def test_a_model_without_a_version_is_waited_for(
    start: Start, models: Path, tmp_path: Path, engine: ModelServer
) -> None:
    server = start(f"--model_base_path={tmp_path}/later", engine.polls(0.1))

    def waits(why: str) -> None:
        if engine.embedded:
            text = f"waiting for model 'default': {why}"
            wait_until("it waits", lambda: server.says(text))
        assert not server.opened(server.grpc_port)

    waits(f"can't read {tmp_path}/later: No such file")
    (tmp_path / "later").mkdir()
    waits(f"{tmp_path}/later contains no version")
    (tmp_path / "later/1").symlink_to(models / "scale/1")

    assert server.ready().output.count("waiting for ") == (2 if engine.embedded else 0)


# The real server has no flag for an address: it listens on all of them.
@embedded_only
def test_a_host_that_is_no_address_of_this_machine(start_command: Start, models: Path) -> None:
    port = free_port()
    server = start_command(f"--model_base_path={models}/scale", "--host=192.0.2.1", grpc_port=port)

    assert server.wait(10) == 1
    assert f"--port={port}: can't listen on port {port} of 192.0.2.1" in server.output


def test_tensorflow_is_imported_without_its_api_and_left_alone_by_the_garbage_collector() -> None:
    code = (
        "import gc, sys; from tfserving.serving.embedded.processes.process import *; prepare_process(); "
        "import_tensorflow(); print(gc.isenabled(), gc.get_freeze_count(), *sys.modules)"
    )
    enabled, frozen, *modules = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    assert enabled == "True"
    assert int(frozen) > 50_000
    assert "tensorflow.python.client.session" in modules
    # The API, and what it imports besides: most of the time of `import tensorflow`.
    assert not {"tensorflow._api", "tensorflow.python.keras", "keras", "scipy", "h5py"} & {*modules}
    assert len(modules) < 1000
