"""What the machine or Ctrl-C does to a command: one line and an exit code, never a traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfserving.cli import tfserving
from tfserving.foundation.failures import sentence

ROOT = Path(__file__).resolve().parents[1]


def shell(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`tfserving` in place of TFSERVING, in a shell."""
    command = command.replace("TFSERVING", f"{sys.executable} -m tfserving")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the output can't be written: No space left on device"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), "a/b: No space left on device"),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "Too many open files; raise the limit of open files",
        ),
        (OSError(errno.EROFS, "Read-only file system", b"/x"), "/x: Read-only file system; set TMPDIR, HOME"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "Set TMPDIR to one"),
        (MemoryError(), "there is not enough memory"),
        (RecursionError(), "the input is nested too deeply"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"), "in the encoding ascii; set PYTHONIOENCODING"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), None),
        (KeyError("x"), None),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(error: Exception, said: str | None) -> None:
    found = sentence(error)
    assert (found is None) if said is None else (found is not None and said in found)


def test_a_device_without_room_and_a_reader_that_leaves_end_a_command_in_a_line() -> None:
    for command, code, said in (
        ("TFSERVING --help > /dev/full", 1, "Error: the output can't be written: No space left on device\n"),
        ("TFSERVING metadata --help > /dev/full", 1, "Error: the output can't be written: No space left"),
        ("TFSERVING --help 2>&1 | head -1; exit ${PIPESTATUS[0]}", 0, ""),
        ("PYTHONIOENCODING=ascii TFSERVING metadata --help > /dev/null", 0, ""),
        ("TFSERVING --help >&-", 0, ""),
    ):
        done = shell(command)
        assert done.returncode == code, (command, done.stderr)
        assert said in done.stderr
        assert done.stderr.count("\n") <= 1, done.stderr


@pytest.mark.parametrize(
    ("module", "code"),
    [
        # Before the command is known, and when it has begun.
        ("click", "os.kill(os.getpid(), signal.SIGINT)"),
        ("orjson", "os.kill(os.getpid(), signal.SIGINT)"),
        # As numpy makes an ImportError of it, and prints its traceback.
        (
            "orjson",
            "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(5)\n"
            "except BaseException:\n    traceback.print_exc(); raise ImportError('failed')",
        ),
        ("orjson", "exec('os.kill(os.getpid(), signal.SIGINT)')"),
    ],
)
def test_ctrl_c_during_an_import_is_code_130_without_a_traceback(module: str, code: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text(f"import os, signal, time, traceback\n{code}\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "tfserving", "metadata", "m", "--server", "http://127.0.0.1:1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip() in ("", "Stopped.")


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tfserving.clients.commands.calls.Target.connected", broken)
    result = CliRunner().invoke(tfserving, ["metadata", "m"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_an_error_with_stderr_closed_does_not_go_to_stdout() -> None:
    done = shell("TFSERVING serv 2>&-")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colours_gets_none(variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert tfserving.make_context("tfserving", ["doctor"]).color is None
    monkeypatch.setenv(*variable)
    assert tfserving.make_context("tfserving", ["doctor"]).color is False


@pytest.mark.parametrize("value", ["nan", "1e400"])
@pytest.mark.parametrize(
    "words", ["serve up --wait", "rollout start m --bake", "predict m --scale", "verify m --absolute"]
)
def test_numbers_are_finite(words: str, value: str) -> None:
    result = CliRunner().invoke(tfserving, [*words.split(), value])
    assert result.exit_code == 2
    assert f"{value} is not a finite number" in result.stderr
