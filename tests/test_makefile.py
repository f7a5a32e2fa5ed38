"""The Makefile's own work: listing its targets, and the environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TARGETS = (
    "export",
    "serve",
    "query",
    "verify",
    "up",
    "down",
    "image",
    "cluster",
    "cluster-down",
    "test",
    "test-engines",
    "test-all",
    "check",
    "clean",
)


def make(folder: Path, *arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("make") or "make", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHON": sys.executable},
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with what the Makefile needs of a bare machine, Python and uv left out."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in ("awk", "cmp", "cp", "echo", "make", "rm", "sh"):
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    return folder


# What builds the package, and what installs; an environment of these alone takes no time.
BUILDING = ("uv", "editables", "hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers")
PACKAGE = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "tfserving"
version = "1"
scripts = { tfserving = "tfserving:main" }
"""


def entries(name: str) -> list[str]:
    """What `lock` pins, one by one."""
    lock = (ROOT / name).read_text().replace("\\\n", " ")
    return [entry for entry in lock.splitlines() if entry and not entry.startswith("#")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile over a small package, and of the locks only what builds it."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "pyproject.toml").write_text(PACKAGE)
    (folder / "tfserving").mkdir()
    (folder / "tfserving/__init__.py").write_text("def main():\n    print('installed')\n")
    pinned = [entry for entry in entries("requirements.lock") if entry.split("==")[0] in BUILDING]
    assert len(pinned) == len(BUILDING)
    (folder / "requirements.lock").write_text("\n".join(pinned) + "\n")
    (folder / "requirements-dev.lock").write_text("\n".join([*pinned, "# for the tests"]) + "\n")
    return folder


def test_make_alone_lists_every_target_with_a_line(project: Path, tools: Path) -> None:
    done = make(project, path=str(tools))
    assert done.returncode == 0
    for target in TARGETS:
        assert any(line.split()[:2] == ["make", target] and line.endswith(".") for line in done.stdout.splitlines())


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_the_environment_has_the_package(project: Path, tools: Path, installer: str) -> None:
    """Where only pip is there, it installs the uv of the lock, which prints no line for each other platform."""
    if installer == "uv":
        (tools / "uv").symlink_to(Path(sys.executable).parent / "uv")
    done = make(project, "env", path=str(tools))
    assert done.returncode == 0, done.stderr
    assert re.match(r"Making \.venv from requirements\.lock: \d+ MB to download, \d GB on disk …$", done.stderr, re.M)
    assert "Ignoring" not in done.stdout + done.stderr
    assert (project / ".venv/bin/python").exists()
    assert subprocess.check_output([str(project / ".venv/bin/tfserving")], text=True) == "installed\n"


def test_the_environment_is_made_again_only_when_the_lock_changed(project: Path, tools: Path) -> None:
    (tools / "uv").symlink_to(Path(sys.executable).parent / "uv")
    assert make(project, "env", path=str(tools)).returncode == 0
    python = project / ".venv/bin/python"
    made = python.lstat().st_mtime_ns
    (project / "requirements.lock").touch()
    again = make(project, "env", path=str(tools))
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert python.lstat().st_mtime_ns == made
    with (project / "requirements.lock").open("a") as lock:
        lock.write("# another lock\n")
    assert "Making .venv" in make(project, "env", path=str(tools)).stderr
    assert python.lstat().st_mtime_ns != made


def test_the_environment_of_the_tests_is_good_for_every_target(project: Path, tools: Path) -> None:
    (tools / "uv").symlink_to(Path(sys.executable).parent / "uv")
    assert make(project, "env", path=str(tools)).returncode == 0
    assert "Making .venv from requirements-dev.lock" in make(project, "env-dev", path=str(tools)).stderr
    for target in ("env", "env-dev"):
        again = make(project, target, path=str(tools))
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_an_environment_that_was_not_finished_is_made_again(project: Path, tools: Path) -> None:
    (tools / "uv").symlink_to(Path(sys.executable).parent / "uv")
    lock = (project / "requirements.lock").read_text()
    (project / "requirements.lock").write_text("this is no requirement\n")
    failed = make(project, "env", path=str(tools))
    assert failed.returncode != 0
    (project / "requirements.lock").write_text(lock)
    done = make(project, "env", path=str(tools))
    assert done.returncode == 0
    assert "Making .venv" in done.stderr


def test_a_machine_without_a_fitting_python_is_told_what_is_needed(project: Path, tools: Path) -> None:
    done = make(project, "env", "PYTHON=python2", path=str(tools))
    assert done.returncode != 0
    assert "TensorFlow 2.21 needs Python 3.10 to 3.13, and none is on PATH. Name one: make PYTHON=" in done.stderr
    assert not (project / ".venv").exists()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "serving/docker/sbom.lock"])
def test_a_lock_pins_every_package_with_hashes_and_names_no_address(name: str) -> None:
    assert "://" not in (ROOT / name).read_text()
    assert entries(name)
    for entry in entries(name):
        assert "==" in entry.split()[0], entry
        assert "--hash=sha256:" in entry, entry


def test_both_locks_have_the_same_versions() -> None:
    """A version that was tested is the one that runs. TensorFlow for CPUs is the same release."""

    def pins(name: str) -> set[str]:
        return {entry.split()[0].replace("tensorflow-cpu", "tensorflow") for entry in entries(name)}

    assert pins("requirements.lock") <= pins("requirements-dev.lock")
