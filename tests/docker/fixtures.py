"""The engine that the tests of all folders share, its images, and a fleet to serve there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from docker import DockerClient

from tests.docker import engine, machine


@pytest.fixture(autouse=True)
def null_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test of Docker or Kubernetes /dev/null is the null device still: made anew, and an error, where not."""
    yield
    if {"cluster", "docker_host"} & {*request.fixturenames} and (found := machine.restore_null()):
        pytest.fail(f"{request.node.nodeid} left /dev/null as {found}; it is the null device again", pytrace=False)


@pytest.fixture(scope="session")
def docker_host(request: pytest.FixtureRequest) -> Iterator[str]:
    """What DOCKER_HOST is for the engine of the tests, with all images.

    TEST_DOCKER_HOST names one that runs already and has them, for those who change these tests.
    """
    if running := os.environ.get("TEST_DOCKER_HOST"):
        yield running
        return
    if reason := engine.unusable():
        pytest.skip(f"no Docker Engine can run here: {reason}")
    request.getfixturevalue("exporting")
    with engine.started() as host:
        engine.build_images(host)
        yield host


@pytest.fixture(scope="session")
def docker(docker_host: str) -> Iterator[DockerClient]:
    with contextlib.closing(DockerClient(docker_host, timeout=120)) as client:
        yield client


@pytest.fixture(scope="session")
def exporting(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """The fleet `exported`, made while the images are built."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit(_export, clone, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def exported(exporting: Future[Path]) -> Path:
    """A fleet of two models: `scaled`, whose version N has the scale N, and `hungry`, which takes what it is asked."""
    return exporting.result()


def _export(clone: Path, folder: Path) -> Path:
    (folder / "models.yaml").write_text(
        "models:\n  scaled:\n    builder: tests.scaled:build\n  hungry:\n    builder: tests.docker.hungry:build\n"
        "    allow: [int-input]\n"
    )
    for scale, names in ((1, ()), (2, ("scaled",)), (3, ("scaled",))):
        command = [sys.executable, "-m", "tfserving", "export", "build", "--fleet", str(folder / "models.yaml"), *names]
        env = {**os.environ, "SCALE": str(scale)}
        done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder
