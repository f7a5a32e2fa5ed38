"""Killing an export at any moment leaves no half version, and nothing that the next export doesn't remove."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil
import pytest

from tests.export.conftest import Project, is_complete, make_project
from tests.export.forked import start
from tfserving.export.staging import PREFIX

# What is new in the model's folder when the moment has come. The last two surely leave a hidden folder behind.
MOMENTS = {
    "the version is there": "[0-9]*",
    "the manifest is written": f"{PREFIX}*/version/assets.extra/manifest.json",
    "some time went by": f"{PREFIX}*",
    "the SavedModel is written": f"{PREFIX}*/version/saved_model.pb",
    "the golden answers are written": f"{PREFIX}*/version/assets.extra/golden.tfrecord",
    "the hidden folder is made": f"{PREFIX}*",
}
LANES = ("left", "right")
# They fork exports from one process.
pytestmark = pytest.mark.xdist_group("export processes")


@dataclass(frozen=True)
class Killed:
    """How an export ended that was killed at some moment, and which versions were not complete then."""

    exitcode: int | None
    incomplete: list[str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def killed(project: Project) -> dict[str, Killed]:
    """Exports of two models, killed one after the other, by moment."""

    def lane(number: int) -> dict[str, Killed]:
        return {moment: kill_at(project, LANES[number], moment) for moment in list(MOMENTS)[number :: len(LANES)]}

    with ThreadPoolExecutor(len(LANES)) as pool:
        return {
            moment: outcome for outcomes in pool.map(lane, range(len(LANES))) for moment, outcome in outcomes.items()
        }


def kill_at(project: Project, model: str, moment: str) -> Killed:
    folder = project.folder / "models" / model
    before = set(folder.glob(MOMENTS[moment]))
    process = start(project.folder, "build", f"{model}=zoo:scale")
    try:
        deadline = time.monotonic() + 120
        while not set(folder.glob(MOMENTS[moment])) - before and process.is_alive():
            assert time.monotonic() < deadline, moment
            time.sleep(0.0005)
        if moment == "some time went by":
            time.sleep(random.Random(moment).uniform(0, 0.5))  # noqa: S311
    finally:
        # Its fresh process ends when it finds that it is alone, having imported TensorFlow.
        alone = children(process.pid)
        process.kill()
        process.join(60)
        for fresh in alone:
            with contextlib.suppress(psutil.NoSuchProcess):
                fresh.kill()
    return Killed(process.exitcode, [path.name for path in folder.glob("[0-9]*") if not is_complete(path)])


def children(pid: int | None) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children()
    return []


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_export_killed_when(killed: dict[str, Killed], moment: str) -> None:
    assert killed[moment].incomplete == []
    if moment != "some time went by":
        assert killed[moment].exitcode == -signal.SIGKILL


def test_the_next_export_succeeds_and_removes_what_the_killed_ones_left(
    project: Project, killed: dict[str, Killed]
) -> None:
    assert all(any(name.startswith(PREFIX) for name in project.names(model)) for model in LANES), killed
    done = project.run("build", *(f"{model}=zoo:scale" for model in LANES))
    assert done.returncode == 0, done.stderr
    for model in LANES:
        names = project.names(model)
        assert names == {str(number) for number in range(1, len(names) + 1)}
        assert all(is_complete(project.folder / "models" / model / name) for name in names)
