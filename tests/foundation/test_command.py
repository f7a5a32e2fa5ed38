"""What all commands share: where models.yaml is found, what is recommended, and what a long command prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfserving.foundation.command import progress
from tfserving.foundation.command.errors import CommandError
from tfserving.foundation.command.hints import DEFAULT_SERVER, typed
from tfserving.foundation.command.progress import Progress
from tfserving.foundation.command.project import find_fleet


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a models.yaml, and a folder deep in it, which is the working folder."""
    (tmp_path / "models.yaml").write_text("models: {}\n")
    deep = tmp_path / "a/b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    monkeypatch.delenv("TFSERVING_FLEET", raising=False)
    monkeypatch.delenv("TFSERVING_SERVER", raising=False)
    return tmp_path


def test_the_fleet_is_found_upwards(project: Path) -> None:
    assert find_fleet() == Path("../../models.yaml")
    assert find_fleet(project) == Path("models.yaml")
    (project / "a/models.yaml").write_text("models: {}\n")
    assert find_fleet() == Path("../models.yaml")


def test_without_a_fleet_the_one_of_the_working_folder_is_missing(tmp_path: Path) -> None:
    assert find_fleet(tmp_path) == Path("models.yaml")


@pytest.mark.parametrize("given", ["models.yaml", "."])
def test_a_fleet_of_another_user_above_is_refused(project: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(project / given, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(CommandError, match=r"belongs to another user \(uid \d+\).*--fleet"):
        find_fleet()
    # In the working folder it is the user's choice.
    assert find_fleet(project) == Path("models.yaml")


def test_a_recommended_command_works_where_it_is_printed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = subprocess.run(
        [*shlex.split(typed("export")), "--help"], capture_output=True, text=True, check=True, cwd=project
    )
    assert "Usage: tfserving export" in done.stdout
    script = Path(sys.executable).with_name("tfserving")
    monkeypatch.setenv("PATH", str(script.parent))
    assert typed("serve down") == "tfserving serve down"


def test_a_recommended_command_has_the_options_that_it_needs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    other = project / "a/other models.yaml"
    other.write_text("models: {}\n")
    assert typed("serve down", fleet=project / "models.yaml") == "tfserving serve down"
    assert typed("serve down", fleet=other) == f"tfserving serve down --fleet '{other}'"
    monkeypatch.setenv("TFSERVING_FLEET", str(other))
    assert typed("serve down", fleet=other) == "tfserving serve down"
    assert typed("predict x", server=DEFAULT_SERVER) == "tfserving predict x"
    assert typed("predict x", server="grpc://h:1") == "tfserving predict x --server grpc://h:1"
    monkeypatch.setenv("TFSERVING_SERVER", "grpc://h:1")
    assert typed("predict x", server="grpc://h:1") == "tfserving predict x"


def test_long_work_prints_where_it_is_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_REPEAT_SECONDS", 1.0)
    seen = ""
    with Progress() as shown:
        shown.update("window 2 of 3")
        deadline = time.monotonic() + 20
        while seen.count("window 2 of 3") < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            seen += capfd.readouterr().err
    assert re.fullmatch(r"window 2 of 3( \(\d s\))?\nwindow 2 of 3 \(\d s\)\n", seen)


def test_short_work_prints_nothing_but_its_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress() as shown:
        shown.update("window 1 of 3")
        shown.line("done")
        shown.update("window 2 of 3")
    assert capfd.readouterr().err == "done\n"
