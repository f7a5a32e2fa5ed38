"""What commands write to: files, devices, pipes, and what is refused before anything is sent."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.clients.conftest import ENVIRONMENT, ON_SERVERS, ROOT, Server
from tests.clients.test_cli import COMMAND
from tests.foundation.test_files import ROOT_ALONE
from tfserving.cli import tfserving
from tfserving.foundation.golden import RECORDS
from tfserving.foundation.records import read_records

pytestmark = ON_SERVERS


def run(*arguments: object) -> Result:
    return CliRunner().invoke(tfserving, [*map(str, arguments)])


@pytest.fixture
def source(server: Server) -> Path:
    """Requests with their responses."""
    return server.models / "scale" / "1" / RECORDS


def piped(pipe: Path, *arguments: object) -> tuple[Result, bytes]:
    """What a command prints, and writes to a pipe."""
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    result = run(*arguments)
    if result.exit_code:
        # Nobody has opened the pipe, for which the reader waits.
        pipe.open("wb").close()
    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    return result, got[0]


@ROOT_ALONE
def test_a_device_that_is_named_as_an_output_stays_one(source: Path, tmp_path: Path) -> None:
    null = tmp_path / "null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    result = run("capture", source, "--golden", null, "--warm-up", null)
    assert result.exit_code == 0, result.output
    assert stat.S_ISCHR(null.stat().st_mode)


@ROOT_ALONE
def test_a_block_device_is_refused(source: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    os.mknod(disk, stat.S_IFBLK | 0o600, os.makedev(7, 250))
    for options in (("capture", source, "--golden", disk), ("verify", tmp_path, "--report", disk)):
        result = run(*options)
        assert result.exit_code == 2
        assert "can't be written: it is a block device, which is never written to" in " ".join(result.stderr.split())
    assert stat.S_ISBLK(disk.stat().st_mode)


def test_requests_are_captured_into_a_pipe(source: Path, tmp_path: Path) -> None:
    result, got = piped(tmp_path / "pipe", "capture", source, "--golden", tmp_path / "pipe")
    assert result.exit_code == 0, result.output
    (tmp_path / "got.tfrecord").write_bytes(got)
    assert list(read_records(tmp_path / "got.tfrecord"))


@pytest.mark.parametrize("output", ["/dev/stdout", "/dev/fd/1"])
def test_the_standard_output_gets_the_records_and_nothing_else(source: Path, output: str, tmp_path: Path) -> None:
    command = [*COMMAND, "capture", str(source), "--golden", output]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)
    assert done.stderr.decode() == f"{output}: {len(list(read_records(source)))} requests with responses\n"
    (tmp_path / "all").write_bytes(b"")
    for _ in range(2):
        with (tmp_path / "all").open("ab") as appended:
            subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, stdout=appended)
    assert (tmp_path / "all").read_bytes() == done.stdout * 2, "what was there stays there"


def test_outputs_and_reports_go_into_pipes_of_any_name(server: Server, tmp_path: Path) -> None:
    asked = ("predict", "--server", server.url("grpc"), "words", "--input", '["a"]')
    result, got = piped(tmp_path / "outputs", *asked, "--output", tmp_path / "outputs")
    assert result.exit_code == 0, result.output
    with np.load(io.BytesIO(got)) as arrays:
        assert arrays.files
    verified = ("verify", server.models / "words", "--server", f"grpc://{server.grpc}")
    result, got = piped(tmp_path / "report", *verified, "--report", tmp_path / "report")
    assert result.exit_code == 0, result.output
    assert got.startswith(b"<!doctype html>")


def test_what_can_not_be_written_is_refused_before_anything_is_sent(source: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        nowhere = ("--server", "grpc://127.0.0.1:1", "m")
        for command in (
            ("capture", source, "--golden"),
            ("capture", source, "--warm-up"),
            ("tune", source.parents[2], "--output"),
            ("predict", *nowhere, "--input", "1", "--output"),
            ("bench", *nowhere, "--report"),
        ):
            for name, said in (
                ("socket", "can't be written: it is a socket, which is no file to write to"),
                ("missing/file", "does not exist"),
            ):
                result = run(*command, tmp_path / name)
                assert result.exit_code == 2, result.output
                assert said in " ".join(result.stderr.split())
    assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)
