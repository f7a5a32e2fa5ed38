"""What is noted of servers that run, when it can't be believed, or can't be written."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.servers import wait_for
from tests.serving.fleets import fleet as make_fleet
from tfserving.cli import tfserving
from tfserving.serving import running
from tfserving.serving.changing import changing
from tfserving.serving.engines import EngineError
from tfserving.serving.models_yaml.file import write_labels
from tfserving.serving.models_yaml.fleet import Fleet, FleetError, read_fleet
from tfserving.serving.running import Running

ROOT = Path(__file__).resolve().parents[2]
PID = os.getpid()
SERVER = Running("embedded", "127.0.0.1", 8500, 8501, ("digits",), pid=PID, began=running.began(PID))
SAID = asdict(SERVER)
WRONG: dict[str, bytes] = {
    "cut": json.dumps(SAID).encode()[:30],
    "empty": b"",
    "a list": b"[]",
    "too little": b'{"x": 1}',
    "another type": json.dumps({**SAID, "grpc_port": "8500"}).encode(),
    "more": json.dumps({**SAID, "surprise": 1}).encode(),
    "another folder": json.dumps({**SAID, "engine": "../../.."}).encode(),
    "neither process nor container": json.dumps({**SAID, "pid": None}).encode(),
    "UTF-16": json.dumps(SAID).encode("utf-16"),
    "nested": b"[" * 100_000,
}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return make_fleet(tmp_path)


@pytest.fixture
def note(fleet: Fleet) -> Path:
    """A note of a server, whose process is this one."""
    running.write_config(running.config_folder(fleet, "embedded", 8500), {"models.config": ""})
    running.note(fleet, SERVER)
    assert running.running(fleet, bool) == [SERVER]
    return running.config_folder(fleet, "embedded", 8500).parent / running.NOTE


def told(fleet: Fleet, *words: str, code: int) -> str:
    """The one line that a command ends with."""
    done = CliRunner().invoke(tfserving, [*words, "--fleet", str(fleet.file)])
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("Warning")]
    return line


@pytest.mark.parametrize("fault", WRONG)
def test_every_command_names_the_file_and_a_way_out(fleet: Fleet, note: Path, fault: str) -> None:
    note.write_bytes(WRONG[fault])
    for words, code in (
        (("serve", "status"), 1),
        (("labels", "set", "digits", "stable=1"), 2),
        (("serve", "reload"), 2),
    ):
        line = told(fleet, *words, code=code)
        assert line.startswith(f"Error: {note} is ")
        assert f"remove its folder: `rm -r {note.parent}`" in line
    assert note.read_bytes() == WRONG[fault]
    assert "labels" not in fleet.file.read_text()


@pytest.fixture
def another() -> Iterator[int]:
    """A process that was never a server."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid


def test_a_number_that_is_another_process_s_is_no_server(fleet: Fleet, note: Path, another: int) -> None:
    """It is forgotten, unless something listens where the server did: then nobody can know."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        for began in (SERVER.began, None):
            note.write_text(json.dumps({**SAID, "pid": another, "began": began, "rest_port": port}))
            line = told(fleet, "serve", "status", code=1)
            assert line.startswith(f"Error: {note} names process {another}, which isn't the server's")
    assert note.exists()
    assert told(fleet, "serve", "status", code=3).startswith(f"Error: no server of {fleet.file} is running. Start one")
    assert not note.parent.exists()


def test_a_state_folder_that_can_not_be_written_is_told(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineError, match=r"config can't be written: Not a directory\. Set XDG_STATE_HOME"):
        running.write_config(running.config_folder(fleet, "embedded", 8500), {"models.config": ""})
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert running.fleet_folder(fleet).is_absolute()


def test_labels_are_not_written_over_those_of_somebody_else(fleet: Fleet) -> None:
    write_labels(fleet.file, "digits", {"stable": 1}, before={})
    with pytest.raises(FleetError, match="the labels of digits were changed by another program"):
        write_labels(fleet.file, "digits", {"canary": 2}, before={})
    fleet.file.write_bytes(b"\xff\xfe")
    with pytest.raises(FleetError, match="another program changed the file"):
        write_labels(fleet.file, "digits", {"stable": 1})


def test_rollouts_of_two_models_that_end_at_once_are_both_written(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path, "models:\n  one: {builder: 'm:build'}\n  two: {builder: 'm:build'}\n")

    def write(model: str) -> None:
        for version in range(1, 31):
            # Refused when what was written before is not there any more.
            write_labels(fleet.file, model, {"stable": version}, {"stable": version - 1} if version > 1 else {})

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, ("one", "two"))) == [None, None]
    read = read_fleet(fleet.file)
    assert {name: dict(model.labels) for name, model in read.models.items()} == {
        name: {"stable": 30} for name in ("one", "two")
    }


def test_shells_that_change_labels_at_once_all_do(fleet: Fleet) -> None:
    command = [sys.executable, "-m", "tfserving", "labels", "set", "digits"]
    shells = [
        subprocess.Popen(
            [*command, f"{label}=1", "--fleet", str(fleet.file)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for label in "abcd"
    ]
    for shell in shells:
        _, said = shell.communicate(timeout=120)
        assert shell.returncode == 0, said
    for label in "abcd":
        assert f"      {label}: 1\n" in fleet.file.read_text()


def test_who_waits_too_long_for_another_shell_is_told(fleet: Fleet) -> None:
    with changing(fleet.file, shared=True):
        with changing(fleet.file, shared=True):
            pass
        waited, line = (
            CliRunner()
            .invoke(tfserving, ["labels", "set", "digits", "a=1", "--wait", "1", "--fleet", str(fleet.file)])
            .stderr.splitlines()
        )
        assert waited == f"Waiting for another command that changes the servers of {fleet.file} …"
        assert line.startswith(f"Error: another command is changing the servers of {fleet.file}, or rolling out")
    # Whoever holds it and is killed holds it no more.
    code = f"""
import sys; from pathlib import Path; from tfserving.serving.changing import changing
with changing(Path({str(fleet.file)!r})): print("held", flush=True); input()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(EngineError, match="another command is changing"), changing(fleet.file):
            pass
        process.kill()
    wait_for(lambda: process.poll() is not None, what="its end")
    with changing(fleet.file):
        pass
