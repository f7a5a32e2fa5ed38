"""Projects with small models, exported as a user does it and in this process."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.exporting import fresh_process, run_export
from tests.servers import Served, serve
from tfserving.export.devices import Machine
from tfserving.export.exporter import Exported, Target, export
from tfserving.export.manifest import hash_files, read_manifest
from tfserving.foundation.command.progress import Progress

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Project:
    """A folder with a module of builders, as a user has it, and models below it."""

    folder: Path

    def run(self, *arguments: str, env: Mapping[str, str | None] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs `tfserving export ARGUMENTS` to its end, in this process."""
        return run_export(self.folder, *arguments, env=env)

    def run_alone(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs it in a process of its own, as a user does."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.env,
            text=True,
            capture_output=True,
            check=False,
            timeout=280,
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tfserving", "export", *arguments]

    @property
    def env(self) -> dict[str, str]:
        # A user's shell sets no log level.
        env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        return env | {"PYTHONPATH": str(ROOT)}

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


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that has version 1 of `scale`, to be read."""
    project = make_project(tmp_path_factory.mktemp("exported"))
    done = project.run("build", "scale")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture(scope="session")
def version(exported: Project) -> Path:
    """That version, to be read."""
    return exported.folder / "models/scale/1"


@pytest.fixture
def copied(version: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(version, tmp_path / "copied/scale/1"))


@dataclass(frozen=True)
class ExportedFleet:
    """The samples, exported by the command, and what it printed; the fleet's file, and where their versions are.

    `cache` is where the trainings left what they learned.
    """

    fleet: Path
    models: Path
    cache: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def exported_fleet(tmp_path_factory: pytest.TempPathFactory) -> ExportedFleet:
    """The samples, really trained: `tfserving export build` in an empty folder."""
    folder = tmp_path_factory.mktemp("fleet")
    fleet = folder / "samples.yaml"
    samples = (ROOT / "export/models/samples.yaml").read_text()
    fleet.write_text(re.sub(r"^folder: .*$", "folder: models", samples, flags=re.M))
    done = run_export(folder, "build", "--fleet", str(fleet))
    assert done.returncode == 0, done.stderr
    return ExportedFleet(fleet, folder / "models", folder / ".cache/training", done.stdout, done.stderr)


@pytest.fixture(scope="session")
def sample_server(exported_fleet: ExportedFleet) -> Iterator[Served]:
    """The samples on the embedded server."""
    run = [sys.executable, "-m", "tfserving", "serve", "--engine", "embedded"]
    ports = ["--port", "{port}", "--rest-port", "{rest_port}"]
    with serve([*run, "--fleet", str(exported_fleet.fleet), *ports], ROOT) as server:
        yield server


@pytest.fixture
def export_here(tmp_path: Path) -> Callable[..., Exported]:
    """Exports what a builder makes, in this process, below `tmp_path / "models"`; more is for the Target."""

    def run(builder: Callable[[], Any], **more: Any) -> Exported:
        return export_to(tmp_path / "models/model", builder, **more)

    return run


def export_to(folder: Path, builder: Callable[[], Any], machine: Machine | None = None, **more: Any) -> Exported:
    """Exports what a builder makes, in this process, to the model's `folder`; more is for the Target.

    `machine` is one to be simulated.
    """
    target = Target("model", f"tests.export.zoo:{builder.__name__}", folder, **more)
    return export(target, builder, fresh_process(), Progress(), machine)
