"""The command `tfserving`: one door to the rooms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import tfserving
from tfserving.cli import ROOMS
from tfserving.cli import tfserving as command

ROOT = Path(__file__).resolve().parents[1]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`tfserving WORDS`, as it is installed."""
    program = Path(sys.executable).with_name("tfserving")
    return subprocess.run(
        [str(program), *words], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


def test_it_has_a_version() -> None:
    assert run("--version").stdout == f"tfserving {tfserving.__version__}\n"


def test_python_finds_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "tfserving", "--help"], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode() == run("--help").stdout


def test_help_lists_the_rooms_without_importing_them() -> None:
    code = "import sys; from tfserving.cli import tfserving as command; command(['--help'], standalone_mode=False)"
    code += "; print(*sys.modules)"
    shown, _, modules = (
        subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip().rpartition("\n")
    )
    for name, room in ROOMS.items():
        assert f"  {name} " in shown
        assert room.purpose in shown
        assert f"tfserving.{room.name}" not in modules.split()


def test_a_command_that_is_none_is_wrong_usage() -> None:
    done = run("exprot")
    assert done.returncode == 2
    assert "No such command 'exprot'" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_the_commands(shell: str) -> None:
    assert "_TFSERVING_COMPLETE" in CliRunner().invoke(command, ["completion", shell]).output
    words = {"COMP_WORDS": "tfserving client predict --sig", "COMP_CWORD": "3"}
    if shell == "fish":
        words = {"COMP_WORDS": "tfserving client predict", "COMP_CWORD": "--sig"}
    assert "--signature" in run(_TFSERVING_COMPLETE=f"{shell}_complete", **words).stdout


def test_shells_complete_the_rooms() -> None:
    words = {"COMP_WORDS": "tfserving ", "COMP_CWORD": "1"}
    shown = run(_TFSERVING_COMPLETE="bash_complete", **words).stdout
    assert [line.partition(",")[2] for line in shown.splitlines()] == [*ROOMS, "completion"]
