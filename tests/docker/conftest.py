"""Fleets whose servers run in the tests' engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from tests.servers import EMBEDDED, STAND_IN, ModelServer, free_ports
from tfserving.serving.docker.image_names import is_embedded
from tfserving.serving.models_yaml.fleet import read_fleet

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Fleet:
    """A fleet of one's own, and the toolkit's commands for it."""

    folder: Path
    host: str
    state: Path
    docker: DockerClient
    grpc_port: int
    rest_port: int

    @property
    def engine(self) -> ModelServer:
        """What the image in models.yaml has inside: the embedded server, or TensorFlow Serving, or what stands in."""
        return EMBEDDED if is_embedded(read_fleet(self.file).server.image_name) else STAND_IN

    @property
    def file(self) -> Path:
        return self.folder / "models.yaml"

    @property
    def grpc(self) -> str:
        return f"grpc://127.0.0.1:{self.grpc_port}"

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.host, "XDG_STATE_HOME": str(self.state)}

    def say(self, text: str) -> None:
        """Has models.yaml say `text`, and nothing else."""
        self.file.write_text(text)

    def toolkit(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """`tfserving WORDS` for this fleet; it must exit with `code`."""
        command = [sys.executable, "-m", "tfserving", *words, "--fleet", str(self.file)]
        done = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False)
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def process(self, *words: str) -> subprocess.Popen[str]:
        """`tfserving WORDS` for this fleet, which keeps running; its output is for the test to read."""
        command = [sys.executable, "-m", "tfserving", *words, "--fleet", str(self.file)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, env=self.env, stdout=pipe, stderr=pipe, text=True)

    def up(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.toolkit("serve", "up", *words, *self.ports, code=code)

    @property
    def ports(self) -> tuple[str, ...]:
        return ("--port", str(self.grpc_port), "--rest-port", str(self.rest_port))

    @property
    def containers(self) -> list[Any]:
        label = f"tensorflow-serving-toolkit.file={self.file}"
        return list(self.docker.containers.list(all=True, filters={"label": label}))

    @property
    def container(self) -> Any:
        (found,) = self.containers
        return found

    def version(self, number: int) -> None:
        """Moves version `number` of `scaled` to where the server looks."""
        target = self.folder / "models/scaled" / str(number)
        shutil.copytree(self.folder / "later" / str(number), target.with_name(".tmp"))
        target.with_name(".tmp").rename(target)


SCALED = "models:\n  scaled:\n    builder: tests.scaled:build\n"


@pytest.fixture
def fleet(docker: DockerClient, docker_host: str, exported: Path, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of `scaled` version 1 and `hungry`; versions 2 and 3 come when they are told to."""
    made = make_fleet(docker, docker_host, exported, tmp_path)
    yield made
    remove_all(made)


def make_fleet(docker: DockerClient, host: str, exported: Path, folder: Path) -> Fleet:
    made = Fleet(folder / "fleet", host, folder / "state", docker, *free_ports(2))
    shutil.copytree(exported, made.folder)
    (made.folder / "later").mkdir()
    for version in (2, 3):
        (made.folder / f"models/scaled/{version}").rename(made.folder / f"later/{version}")
    made.say(SCALED)
    return made


def remove_all(fleet: Fleet) -> None:
    for container in fleet.containers:
        container.remove(force=True, v=True)


@pytest.fixture(scope="session")
def left(docker: DockerClient) -> Callable[[], dict[str, set[str]]]:
    """What the engine has: containers, networks and volumes, by name."""

    def names() -> dict[str, set[str]]:
        return {
            "containers": {str(one.name) for one in docker.containers.list(all=True)},
            "networks": {str(one.name) for one in docker.networks.list()},
            "volumes": {str(one.name) for one in docker.volumes.list()},
        }

    return names
