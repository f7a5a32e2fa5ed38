"""Lines that logs write: whole, in their order, and never waited for."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.serving.embedded.running import ROOT, wait_until
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.observability.access_log import AccessLog
from tfserving.serving.embedded.observability.current_request import current_request
from tfserving.serving.embedded.observability.lines import LONGEST_LINE, Lines
from tfserving.serving.embedded.observability.server_log import ServerLog

Pipe = tuple[int, int]


@pytest.fixture(params=["blocking", "non-blocking"])
def pipe(request: pytest.FixtureRequest) -> Iterator[Pipe]:
    """A pipe with room for 4096 bytes, which nobody reads yet."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, request.param == "blocking")
    yield read, write
    os.close(read)
    os.close(write)


def told(count: int) -> bytes:
    return b"%d were dropped\n" % count


def reading(read: int) -> list[bytes]:
    """What is read from a pipe from now on."""
    found: list[bytes] = []
    duplicate = os.dup(read)

    def work() -> None:
        while data := os.read(duplicate, 1000):
            found.append(data)
        os.close(duplicate)

    threading.Thread(target=work, daemon=True).start()
    return found


def dropped(log: str) -> int:
    return metrics.DROPPED_LINES.counted().get((log,), 0)


def test_lines_that_nobody_reads_are_dropped_and_counted_and_told_when_somebody_does(pipe: Pipe) -> None:
    read, write = pipe
    before = dropped("some")
    lines = Lines(write, "some", told, most=10_000)
    for number in range(1000):
        lines.write(b"%d %s\n" % (number, b"x" * 95))
    assert not lines.flush(0.1)
    lost = dropped("some") - before
    assert 800 < lost < 1000
    found = reading(read)
    assert lines.flush(10)
    # Of what comes later nothing is lost.
    for number in range(1000, 1050):
        lines.write(b"%d\n" % number)
    assert lines.flush(10)
    wait_until("the last line", lambda: b"".join(found).endswith(b"1049\n"))
    written = b"".join(found).splitlines()
    numbers = [int(line.split()[0]) for line in written if not line.endswith(b"dropped")]
    assert numbers == sorted(numbers)
    assert len(numbers) == 1050 - lost
    assert sum(int(line.split()[0]) for line in written if line.endswith(b"dropped")) == lost


def test_a_reader_that_is_gone_keeps_nobody_waiting() -> None:
    read, write = os.pipe()
    os.close(read)
    before = dropped("gone")
    lines = Lines(write, "gone", told)
    for _ in range(10):
        lines.write(b"x\n")
    assert lines.flush(10)
    assert dropped("gone") - before == 10
    os.close(write)


def test_a_full_disk_keeps_what_there_is_room_for_in_memory() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    before = dropped("full")
    lines = Lines(full, "full", told, most=100)
    for _ in range(100):
        lines.write(b"123456789\n")
    assert not lines.flush(0.1)
    assert dropped("full") - before == 90
    # There is room again.
    read, write = os.pipe()
    os.dup2(write, full)
    os.close(write)
    assert lines.flush(10)
    os.close(full)
    with os.fdopen(read, "rb") as found:
        assert found.read() == b"123456789\n" * 10 + b"90 were dropped\n"


def test_a_line_that_was_written_by_half_is_completed(tmp_path: Any) -> None:
    # The limit is a process's own, and would hold for other tests.
    script = f"""
import os, resource
from tfserving.serving.embedded.observability.lines import Lines
resource.setrlimit(resource.RLIMIT_FSIZE, (25, resource.RLIM_INFINITY))
file = os.open({str(tmp_path / "log")!r}, os.O_CREAT | os.O_WRONLY)
lines = Lines(file, "some", lambda count: b"")
for number in range(10):
    lines.write(b"line %d...\\n" % number)
assert not lines.flush(0.2)
assert os.fstat(file).st_size == 25
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert lines.flush(10)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert (tmp_path / "log").read_text() == "".join(f"line {number}...\n" for number in range(10))


def test_lines_of_several_processes_do_not_get_into_each_other() -> None:
    script = """
from tfserving.serving.embedded.observability.access_log import AccessLog
log = AccessLog()
for number in range(200):
    log.write(log.begin(), "rest", path="/" + "x" * (number * 37 % 1500), number=number)
log.flush(60)
"""
    read, write = os.pipe()
    writers = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=write) for _ in range(3)]
    os.close(write)
    with os.fdopen(read, "rb") as found:
        lines = [json.loads(line) for line in found]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert sorted(line["number"] for line in lines) == sorted([*range(200)] * 3)


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("path", b"/v1/models/\xff:predict", "/v1/models/\ufffd:predict"),
        ("client", "ipv4:\udcff", "ipv4:?"),
        ("method", "x" * 100_000, "x" * 1024 + "…"),
        ("path", b"\x01" * 100_000, "\x01" * 100 + "…"),
        ("model", "\ud800" + "x" * 1_000_000, "?" + "x" * 1023 + "…"),
        ("model", "a\nb\u2028", "a\nb\u2028"),
    ],
)
def test_whatever_is_in_a_line_of_the_access_log_it_is_one_short_line(name: str, value: Any, written: str) -> None:
    read, write = os.pipe()
    log = AccessLog(write)
    began = log.begin()
    current_request.model, others = (value, {}) if name == "model" else (None, {name: value})
    log.write(began, "rest", status=200, **others)
    log.flush(10)
    current_request.reset()
    os.close(write)
    with os.fdopen(read, "rb") as found:
        (line,) = found.read().splitlines()
    assert len(line) < LONGEST_LINE
    assert json.loads(line)[name] == written


def test_every_line_of_the_servers_own_log_has_its_time_and_level() -> None:
    read, write = os.pipe()
    handler = ServerLog(write)
    log = logging.Logger("some")
    log.addHandler(handler)
    log.info("one %s", "line\n2026-11-26T00:00:00.000+00:00 error: forged \x1b[31m \udcff")
    try:
        raise ValueError("x" * 100_000)
    except ValueError:
        log.exception("it failed")
    log.info("too few: %s %s", 1)  # noqa: PLE1206 - that is what is tried
    handler.flush()
    handler.close()
    with os.fdopen(read, "rb") as found:
        lines = found.read().decode().splitlines()
    for line in lines:
        time, level, _ = line.split(" ", 2)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", time), line
        assert abs(datetime.fromisoformat(time).timestamp() - datetime.now().timestamp()) < 600
        assert level in ("info:", "error:")
        assert len(line.encode()) < LONGEST_LINE
    said = [line.split(" ", 1)[1] for line in lines]
    assert said[:4] == [
        "info: one line",
        "info:   2026-11-26T00:00:00.000+00:00 error: forged \\x1b[31m \\udcff",
        "error: it failed",
        "error:   Traceback (most recent call last):",
    ]
    assert said[-1].startswith("info: 'too few: %s %s' can't be formatted")
