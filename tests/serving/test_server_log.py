"""The log of a server that is a process of this machine: bounded, private, shown while it grows."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.serving.fleets import fleet as make_fleet
from tests.serving.test_running import SERVER
from tfserving.cli import tfserving
from tfserving.serving import running, server_log
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.server_log import ServerLog


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files for two lines of five characters."""
    monkeypatch.setattr(server_log, "LARGEST_BYTES", 12)


@pytest.fixture
def log(tmp_path: Path, small: None) -> Iterator[ServerLog]:  # noqa: ARG001 - its work is done
    log = ServerLog(tmp_path)
    yield log
    log.close()


def lines(
    folder: Path, *, follow: bool = False, tail: int | None = None, alive: Callable[[], bool] = bool
) -> list[str]:
    return [text.rstrip("\n") for text in server_log.read(folder, follow=follow, tail=tail, alive=alive)]


def test_it_has_so_many_files_of_so_many_bytes_and_no_more(log: ServerLog, tmp_path: Path) -> None:
    for number in range(100):
        log.write(f"x {number:03}")
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {
        "server.log": 12,
        "server.log.1": 12,
        "server.log.2": 12,
    }
    assert lines(tmp_path) == [f"x {number:03}" for number in range(94, 100)]
    assert lines(tmp_path, tail=3) == ["x 097", "x 098", "x 099"]
    assert lines(tmp_path, tail=0) == []


def test_nobody_else_can_read_it(log: ServerLog, tmp_path: Path) -> None:
    for number in range(5):
        log.write(f"x {number:03}")
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_line_longer_than_a_file_is_kept_whole(log: ServerLog, tmp_path: Path) -> None:
    log.write("first")
    log.write("x" * 100)
    assert lines(tmp_path) == ["first", "x" * 100]


def test_it_is_followed_from_file_to_file_until_the_server_has_ended(log: ServerLog, tmp_path: Path) -> None:
    numbers = iter(range(22))

    def alive() -> bool:
        """Two more lines at each look, and then it ends."""
        written = list(itertools.islice(numbers, 2))
        for number in written:
            log.write(f"x {number:03}")
        return bool(written)

    assert lines(tmp_path, follow=True, tail=0, alive=alive) == [f"x {number:03}" for number in range(22)]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return make_fleet(tmp_path)


def shown(fleet: Fleet, *words: str, code: int = 0) -> str:
    """What `logs` prints."""
    done = CliRunner().invoke(tfserving, ["serve", "logs", *words, "--fleet", str(fleet.file)])
    assert done.exit_code == code, done.output
    return done.output


def start(fleet: Fleet, engine: str, port: int) -> None:
    """Notes a server, with a log of a line that names it."""
    server = running.Running(engine, "127.0.0.1", port, port + 1, ("digits",), pid=SERVER.pid, began=SERVER.began)
    folder = running.config_folder(fleet, engine, port)
    running.write_config(folder, {"models.config": ""})
    running.note(fleet, server)
    log = ServerLog(folder.parent)
    log.write(f"the {engine} server prints")
    log.close()


def test_of_several_servers_the_port_chooses_one(fleet: Fleet) -> None:
    assert f"no server of {fleet.file} is running. Start one with `" in shown(fleet, code=3)
    start(fleet, "embedded", 8500)
    assert shown(fleet) == "the embedded server prints\n"
    start(fleet, "native", 9500)
    listed = "the embedded server on port 8500, the native server on port 9500"
    assert f"2 servers of {fleet.file} are running: {listed}. Choose one with --port" in shown(fleet, code=2)
    assert shown(fleet, "--port", "9500") == "the native server prints\n"
    assert f"no server of {fleet.file} has gRPC on port 7500. Running: {listed}" in shown(
        fleet, "--port", "7500", code=2
    )
