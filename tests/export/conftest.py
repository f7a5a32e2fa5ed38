"""Projects with small models, exported as a user does it and in this process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Served, serve
from tfserving.export.exporter import Exported, Target, export
from tfserving.export.manifest import hash_files, read_manifest
from tfserving.export.proof import FreshProcess

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Project:
    """A folder with a module of builders, as a user has it, and models below it."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tfserving", "export", *arguments]

    @property
    def env(self) -> dict[str, str]:
        # A user's shell sets no log level.
        env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        return env | {"PYTHONPATH": str(ROOT)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `tfserving export ARGUMENTS` to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.env,
            text=True,
            capture_output=True,
            check=False,
            timeout=280,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts `tfserving export ARGUMENTS`."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def names(self, model: str) -> set[str]:
        """What is in the folder of `model`, hidden or not."""
        folder = self.folder / "models" / model
        return {child.name for child in folder.iterdir()} if folder.is_dir() else set()


def make_project(folder: Path) -> Project:
    (folder / "zoo.py").write_text((Path(__file__).parent / "zoo.py").read_text())
    (folder / "models.yaml").write_text(
        "models:\n  scale: {builder: 'zoo:scale'}\n  unbuilt: {builder: 'zoo:unbuilt'}\n"
    )
    return Project(folder)


def is_complete(version_folder: Path) -> bool:
    """Whether a version has every file that its manifest lists, as it lists it, and no other."""
    return hash_files(version_folder) == read_manifest(version_folder).files


def digest(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below `folder`."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project of which nothing was exported."""
    return make_project(tmp_path)


@dataclass(frozen=True)
class FirstExport:
    """What `tfserving export build --json` did in a new project where one of two models can't be exported."""

    project: Project
    returncode: int
    stderr: str
    results: dict[str, Any]
    version: Path


@pytest.fixture(scope="session")
def first_export(tmp_path_factory: pytest.TempPathFactory) -> FirstExport:
    project = make_project(tmp_path_factory.mktemp("project"))
    done = project.run("build", "--json")
    results = {result["model"]: result for result in json.loads(done.stdout)["models"]}
    return FirstExport(project, done.returncode, done.stderr, results, project.folder / "models" / "scale" / "1")


@dataclass(frozen=True)
class ExportedFleet:
    """The samples, exported by the command, and what it printed; the fleet's file, and where their versions are."""

    fleet: Path
    models: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def exported_fleet(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedFleet:
    """The samples, really trained: `tfserving export build` in a clone."""
    fleet = tmp_path_factory.mktemp("fleet") / "samples.yaml"
    samples = (ROOT / "export/models/samples.yaml").read_text()
    fleet.write_text(re.sub(r"^folder: .*$", "folder: models", samples, flags=re.M))
    done = subprocess.run(
        [sys.executable, "-m", "tfserving", "export", "build", "--fleet", str(fleet)],
        cwd=clone,
        text=True,
        capture_output=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return ExportedFleet(fleet, fleet.parent / "models", done.stdout, done.stderr)


@pytest.fixture(scope="session")
def sample_server(exported_fleet: ExportedFleet, clone: Path) -> Iterator[Served]:
    """The samples on the embedded server."""
    ports = ["--port", "{port}", "--rest-port", "{rest_port}"]
    run = [
        sys.executable,
        "-m",
        "tfserving",
        "serve",
        "run",
        "--fleet",
        str(exported_fleet.fleet),
        "--engine",
        "embedded",
    ]
    with serve([*run, *ports], clone) as server:
        yield server


class _FreshProcesses:
    """A fresh process for one export after the other: it forgets a version when it loads the next."""

    def __init__(self) -> None:
        self._process: FreshProcess | None = None

    @contextlib.contextmanager
    def one(self) -> Iterator[FreshProcess]:
        self._process = self._process or FreshProcess()
        try:
            yield self._process
        except BaseException:
            # There may be answers that nobody took.
            self.close()
            raise

    def close(self) -> None:
        if self._process is not None:
            self._process.__exit__(None, None, None)
            self._process = None


@pytest.fixture(scope="session")
def fresh_processes() -> Iterator[_FreshProcesses]:
    processes = _FreshProcesses()
    yield processes
    processes.close()


@pytest.fixture
def export_here(tmp_path: Path, fresh_processes: _FreshProcesses) -> Callable[..., Exported]:
    """Exports what a builder makes, in this process, below `tmp_path / "models"`; more is for the Target."""

    def run(builder: Callable[[], Any], **more: Any) -> Exported:
        target = Target("model", f"tests.export.zoo:{builder.__name__}", tmp_path / "models" / "model", **more)
        with fresh_processes.one() as fresh:
            return export(target, builder, fresh, print)

    return run
