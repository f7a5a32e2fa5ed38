from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.embedded.running import wait_until
from tests.serving.embedded.saved_models import rows
from tfserving.serving.embedded.core.loader import Runtime, Servable, load
from tfserving.serving.embedded.core.manager import Manager
from tfserving.serving.embedded.core.served import Served
from tfserving.serving.embedded.core.view import State
from tfserving.serving.embedded.errors import Code, RequestError


class Loader:
    """The real loader, that waits for `gate` before it loads and remembers what it closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.tries: list[int] = []

    def __call__(self, model: str, version: int, path: Path) -> Servable:
        self.tries.append(version)
        assert self.gate.wait(30)
        return load(model, version, path, Runtime())


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def served(loader: Loader) -> Served:
    return Served(loader)


@pytest.fixture
def manager(served: Served, loader: Loader) -> Iterator[Manager]:
    manager = Manager(served, retries=1, retry_seconds=0.01)
    manager.assign_labels({"m": {"stable": 1}}, allow_unavailable=True)
    yield manager
    loader.gate.set()
    manager.stop(30)


@pytest.fixture
def versions(models: Path) -> dict[int, Path]:
    return {1: models / "scale" / "1", 2: models / "scale" / "2", 3: models / "broken" / "1"}


def state(served: Served, version: int) -> State:
    return served.view.statuses("m", version)[0].state


def reach(served: Served, version: int, wanted: State) -> None:
    wait_until(f"version {version} {wanted.name}", lambda: state(served, version) is wanted)


def test_an_aspired_version_is_loaded_and_served(
    manager: Manager, served: Served, versions: dict[int, Path], loader: Loader
) -> None:
    loader.gate.clear()
    manager.aspire("m", {1: versions[1]})
    assert state(served, 1) is State.LOADING
    with pytest.raises(RequestError, match=r"Servable not found for request: Latest\(m\)"):
        served.handle("m")
    loader.gate.set()
    reach(served, 1, State.AVAILABLE)

    with served.handle("m") as servable:
        assert servable.version == 1


def test_the_old_version_serves_until_the_new_one_is_available(
    manager: Manager, served: Served, versions: dict[int, Path], loader: Loader
) -> None:
    manager.aspire("m", {1: versions[1]})
    reach(served, 1, State.AVAILABLE)
    loader.gate.clear()
    manager.aspire("m", {2: versions[2]})
    reach(served, 2, State.LOADING)
    with served.handle("m") as servable:
        assert servable.version == 1

    loader.gate.set()
    reach(served, 1, State.END)
    with served.handle("m") as servable:
        assert servable.version == 2


def test_a_handle_keeps_its_version_alive(manager: Manager, served: Served, versions: dict[int, Path]) -> None:
    manager.aspire("m", {1: versions[1]})
    reach(served, 1, State.AVAILABLE)
    with served.handle("m") as servable:
        manager.aspire("m", {2: versions[2]})
        reach(served, 1, State.UNLOADING)
        with served.handle("m") as newer:
            assert newer.version == 2
        with pytest.raises(RequestError, match=r"Specific\(m, 1\)"):
            served.handle("m", version=1)

        signature = servable.signatures["serving_default"]
        assert servable.run(signature, [rows(1)], ("version",))[0].tolist() == [1]
        assert state(served, 1) is State.UNLOADING

    reach(served, 1, State.END)


def test_a_failed_version_is_tried_again_and_then_leaves_the_old_one_serving(
    manager: Manager, served: Served, versions: dict[int, Path], loader: Loader
) -> None:
    manager.aspire("m", {1: versions[1]})
    reach(served, 1, State.AVAILABLE)
    manager.aspire("m", {3: versions[3]})
    reach(served, 3, State.END)

    assert loader.tries == [1, 3, 3]
    (status,) = served.view.statuses("m", 3)
    assert status.error is not None
    assert status.error.code is Code.OUT_OF_RANGE
    assert state(served, 1) is State.AVAILABLE

    manager.aspire("m", {3: versions[3]})
    assert loader.tries == [1, 3, 3], "a version that failed is not loaded again while it lies there"


def test_a_version_that_is_not_wanted_any_more_is_not_tried_again(versions: dict[int, Path], loader: Loader) -> None:
    served = Served(loader)
    manager = Manager(served, retries=1000, retry_seconds=0.05)
    manager.aspire("m", {3: versions[3]})
    wait_until("a first try", lambda: len(loader.tries) > 0)
    manager.aspire("m", {})

    reach(served, 3, State.END)
    assert len(loader.tries) < 20


@pytest.fixture
def patient(served: Served) -> Iterator[Manager]:
    """A manager that waits for an hour before it tries again, unless something else happens."""
    manager = Manager(served, retries=5, retry_seconds=3600)
    yield manager
    manager.stop(30)


def fail(manager: Manager, served: Served, path: Path) -> None:
    """Has `path` aspired as version 3, and waits until its first try has failed."""
    manager.aspire("m", {3: path})
    wait_until("a failed try", lambda: served.view.statuses("m", 3)[0].error is not None)


def test_while_a_version_waits_to_be_tried_again_its_status_has_the_error(
    patient: Manager, served: Served, versions: dict[int, Path]
) -> None:
    fail(patient, served, versions[3])

    (status,) = served.view.statuses("m", 3)
    assert status.state is State.LOADING
    assert status.error is not None
    assert status.error.code is Code.OUT_OF_RANGE


def test_a_version_that_waits_is_given_up_when_its_folder_is_gone(
    patient: Manager, served: Served, versions: dict[int, Path], loader: Loader
) -> None:
    fail(patient, served, versions[3])
    patient.aspire("m", {})

    reach(served, 3, State.END)
    assert loader.tries == [3]


def test_a_version_that_waits_is_tried_again_when_its_folder_has_changed(
    patient: Manager, served: Served, versions: dict[int, Path], loader: Loader, tmp_path: Path
) -> None:
    path = tmp_path / "3"
    shutil.copytree(versions[3], path)
    fail(patient, served, path)
    # It is being written, each time it is looked at.
    for size in (100, 200, 300):
        (path / "saved_model.pb").write_bytes(b"\xff" * size)
        patient.aspire("m", {3: path})
    assert loader.tries == [3]

    shutil.rmtree(path)
    shutil.copytree(versions[1], path)
    patient.aspire("m", {3: path})
    patient.aspire("m", {3: path})
    reach(served, 3, State.AVAILABLE)
    assert served.view.statuses("m", 3)[0].error is None


def test_a_version_that_was_given_up_is_loaded_when_it_is_repaired(
    manager: Manager, served: Served, versions: dict[int, Path], loader: Loader, tmp_path: Path
) -> None:
    path = tmp_path / "3"
    shutil.copytree(versions[3], path)
    manager.aspire("m", {3: path})
    reach(served, 3, State.END)
    for _ in range(3):
        manager.aspire("m", {3: path})
    assert loader.tries == [3, 3], "a folder that has not changed is not tried again"

    shutil.copy(versions[1] / "saved_model.pb", path)
    for _ in range(2):
        manager.aspire("m", {3: path})
    reach(served, 3, State.AVAILABLE)


def test_with_no_version_aspired_all_are_unloaded(manager: Manager, served: Served, versions: dict[int, Path]) -> None:
    manager.aspire("m", {1: versions[1], 2: versions[2]})
    reach(served, 1, State.AVAILABLE)
    reach(served, 2, State.AVAILABLE)
    manager.aspire("m", {})

    reach(served, 1, State.END)
    reach(served, 2, State.END)
    assert [status.version for status in served.view.statuses("m")] == [2, 1]


def test_a_version_that_comes_back_is_loaded_again(manager: Manager, served: Served, versions: dict[int, Path]) -> None:
    manager.aspire("m", {1: versions[1]})
    reach(served, 1, State.AVAILABLE)
    manager.aspire("m", {})
    reach(served, 1, State.END)
    manager.aspire("m", {1: versions[1]})

    reach(served, 1, State.AVAILABLE)


def test_the_highest_available_version_is_the_latest(
    manager: Manager, served: Served, versions: dict[int, Path]
) -> None:
    manager.aspire("m", versions)
    for number in (1, 2):
        reach(served, number, State.AVAILABLE)
    reach(served, 3, State.END)

    with (
        served.handle("m") as latest,
        served.handle("m", version=1) as first,
        served.handle("m", label="stable") as stable,
    ):
        assert (latest.version, first.version, stable.version) == (2, 1, 1)
    assert manager.available() == {"m": [1, 2]}
    assert manager.failures() == []


def test_a_model_that_no_version_of_can_be_loaded_is_a_failure(manager: Manager, versions: dict[int, Path]) -> None:
    manager.aspire("m", {3: versions[3]})
    manager.wait_until_settled(threading.Event())

    (failure,) = manager.failures()
    assert failure.startswith(f"model 'm' version 3 in {versions[3]}: OUT_OF_RANGE: Read less bytes than requested")


def test_stopping_waits_for_handles_and_frees_everything(
    manager: Manager, served: Served, versions: dict[int, Path]
) -> None:
    manager.aspire("m", {1: versions[1]})
    reach(served, 1, State.AVAILABLE)
    handle = served.handle("m")
    assert not manager.stop(0.1)
    handle.__exit__(None, None, None)

    assert manager.stop(30)
    assert state(served, 1) is State.END
    manager.aspire("m", {2: versions[2]})
    assert [status.version for status in served.view.statuses("m")] == [1]


def test_a_status_of_what_there_never_was_is_not_found(served: Served) -> None:
    with pytest.raises(RequestError, match="Could not find any versions of model m; no model is called 'm'") as failure:
        served.view.statuses("m")

    assert failure.value.code is Code.NOT_FOUND
