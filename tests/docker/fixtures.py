"""The engine that the tests of all folders share, its images, and a fleet to serve there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from tests.docker import engine, machine
from tests.exporting import export_scaled


@pytest.fixture(autouse=True)
def null_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test of Docker or Kubernetes /dev/null is the null device still: made anew, and an error, where not."""
    yield
    if {"cluster", "docker_host"} & {*request.fixturenames} and (found := machine.restore_null()):
        pytest.fail(f"{request.node.nodeid} left /dev/null as {found}; it is the null device again", pytrace=False)


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """What DOCKER_HOST is for the engine of the tests, with all images.

    TEST_DOCKER_HOST names one that runs already and has them, for those who change these tests.
    """
    if running := os.environ.get("TEST_DOCKER_HOST"):
        yield running
        return
    if reason := engine.unusable():
        pytest.skip(f"no Docker Engine can run here: {reason}")
    with engine.started() as host:
        engine.build_images(host)
        yield host


@pytest.fixture(scope="session")
def docker(docker_host: str) -> Iterator[DockerClient]:
    with contextlib.closing(DockerClient(docker_host, timeout=120)) as client:
        yield client


@pytest.fixture(scope="session")
def scaled_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `scaled`, versions 1 to 4, whose scales these are; 4 is slow. It is for tests to copy from."""
    folder = tmp_path_factory.mktemp("scaled")
    (folder / "models.yaml").write_text("models:\n  scaled:\n    builder: tests.scaled:build\n")
    # Many times as slow as the others, and quick enough to be asked often.
    export_scaled(folder / "models.yaml", (1, 2, 3, 4), slow=4, slowness=0.5)
    return folder / "models/scaled"


@pytest.fixture(scope="session")
def exported(scaled_versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet of two models: `scaled`, whose version N has the scale N, and `hungry`, which takes what it is asked."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "models.yaml").write_text(
        "models:\n  scaled:\n    builder: tests.scaled:build\n  hungry:\n    builder: tests.docker.hungry:build\n"
        "    allow: [int-input]\n"
    )
    for version in (1, 2, 3):
        shutil.copytree(scaled_versions / str(version), folder / "models/scaled" / str(version))
    export_scaled(folder / "models.yaml", (1,), model="hungry")
    return folder
