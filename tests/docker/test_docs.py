"""docs/docker.md and the README's part on Docker, followed from top to bottom on a real engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from tests.docker.engine import COMPOSE, ENVOY, MEMORY
from tests.servers import free_ports, serve
from tests.test_readme import COMMANDS, DOCKER

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/docker.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
SECTIONS = {part.partition("\n")[0]: BLOCK.findall(part) for part in re.split(r"^## ", PAGE, flags=re.M)[1:]}
# By the page's ports those of the test.
PORTS = dict(zip(("8500", "8501", "9090", "9091", "8443"), map(str, free_ports(5)), strict=True))
# The image of all these tests is built by it, with the base image as an argument.
BUILD = "docker build --file serving/docker/embedded.Dockerfile --tag serving-embedded:2.21.0 ."


class Project:
    """A clone where the page is followed."""

    def __init__(self, folder: Path, host: str, state: Path) -> None:
        self.folder = folder
        self.models = (folder / "models.yaml").read_text()
        ports = {"PORT": PORTS["8500"], "REST_PORT": PORTS["8501"]}
        path = f"{folder}/.venv/bin:{os.environ['PATH']}"
        self.env = {**os.environ, **ports, "DOCKER_HOST": host, "XDG_STATE_HOME": str(state), "PATH": path}

    def say(self, text: str = "") -> None:
        """Has models.yaml say `text` beside, or instead of, the models."""
        for page, ours in PORTS.items():
            text = text.replace(page, ours)
        # No registry is in reach. Images that are built here have the names of the page, but other digests.
        if "compose:" not in text:
            text += f"compose: {{{COMPOSE}, prometheus_port: {PORTS['9090']}}}\n"
        elif "envoy:" in text:
            text = text.replace("  envoy:\n", f"  envoy:\n    image: {ENVOY}\n")
        else:
            text = text.replace("compose:\n", f"compose:\n  memory_exporter: {MEMORY}\n")
        text = re.sub("@sha256:[0-9a-f]{64}", "", text)
        (self.folder / "models.yaml").write_text(text if "models:" in text else self.models + text)

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        for page, ours in PORTS.items():
            line = line.replace(page, ours)
        if line.startswith(("tfserving serve up", "tfserving compose render")):
            line += f" --port {PORTS['8500']} --rest-port {PORTS['8501']}"
        done = subprocess.run(
            ["sh", "-c", line], cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done

    def follow(self, section: str) -> None:
        """Runs a section's commands, models.yaml being what its blocks say."""
        self.say()
        for kind, block in SECTIONS.pop(section):
            if kind == "yaml":
                self.say(block)
                if "tls/" not in block:
                    self.run("tfserving config --check")
            elif kind == "sh":
                for line in block.splitlines():
                    self.run(line)
            else:
                # What a command prints.
                assert kind == "text"


@pytest.fixture(scope="module")
def project(
    docker_host: str, docker: DockerClient, clone: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("docs") / "toolkit"
    # What other tests export into the clone isn't this one's.
    shutil.copytree(clone, folder, symlinks=True, ignore=shutil.ignore_patterns("models", ".cache", "tests"))
    shutil.copytree(clone / "export/models", folder / "export/models")
    shutil.copy(ROOT / "models.yaml", folder)
    made = Project(folder, docker_host, tmp_path_factory.mktemp("docs-state"))
    yield made
    for command in ("serve down", "compose down"):
        subprocess.run([".venv/bin/python", "-m", "tfserving", *command.split()], cwd=folder, env=made.env, check=False)
    for container in docker.containers.list(all=True, filters={"name": "baked"}):
        container.remove(force=True)


def test_the_readmes_commands_are_on_the_page() -> None:
    page = [
        line for blocks in SECTIONS.values() for kind, block in blocks if kind == "sh" for line in block.splitlines()
    ]
    assert set(DOCKER) < set(page)
    assert set(DOCKER) < set(COMMANDS)


def test_the_page_followed_from_top_to_bottom(project: Project) -> None:
    (build,) = (block for kind, block in SECTIONS.pop("Build the embedded image") if kind == "sh")
    assert build.splitlines() == [BUILD]
    project.say()
    engine = {name: project.env[name] for name in ("DOCKER_HOST", "XDG_STATE_HOME")}
    with serve(["make", "serve", "ENGINE=docker"], project.folder, engine) as server:
        assert "Serving 2 models with the docker server:" in server.output
        project.run(f"make verify PORT={server.grpc_port} REST_PORT={server.rest_port}")

    for section in (
        "Start a server",
        "Choose the image",
        "Set limits",
        "Use GPUs",
        "Use TLS",
        "Check the configuration",
    ):
        project.follow(section)
    project.say()
    project.run("tfserving serve up")
    project.follow("Change a running server")
    project.follow("Clean up")
    project.follow("Build an image that contains the models")
    envoy = SECTIONS["Monitor with Prometheus and Grafana"].pop()
    assert envoy[0] == "yaml"
    project.follow("Monitor with Prometheus and Grafana")
    assert (project.folder / "deployment/compose.yaml").is_file()
    # Envoy, with the certificate that the page made.
    project.say(envoy[1])
    project.run("tfserving compose render with-envoy")
    assert [name for name, blocks in SECTIONS.items() if blocks] == []
