"""Versions come and go while a server answers."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.serving.embedded import saved_models
from tests.serving.embedded.running import Asker, Process, together, wait_until
from tests.serving.embedded.saved_models import rows

pytestmark = together

CONCURRENT = 200


@pytest.fixture(autouse=True)
def _server_lives(server: Process) -> object:
    yield
    assert server.process.poll() is None, server.output


def test_predictions_during_a_swap_all_succeed_each_of_one_version(ask: Asker, live: Path) -> None:
    factors = {1: 1.0, 2: -3.0}
    answered: list[int] = []
    swapped = threading.Event()

    def one(number: int) -> int:
        x = rows(number % 7 + 2) + number
        if number % 2:
            outputs = ask.predict("swapped", {"x": x})
        else:
            status, document = ask.post("swapped:predict", {"inputs": x.tolist()})
            assert status == 200, document
            outputs = {name: np.asarray(value) for name, value in document["outputs"].items()}
        versions = set(outputs["version"].tolist())
        assert len(versions) == 1, "rows of two versions in one answer"
        version = int(versions.pop())
        assert np.array_equal(outputs["y"], x * factors[version])
        answered.append(version)
        return version

    def keep_asking(worker: int) -> int:
        number = worker
        while not swapped.is_set():
            one(number)
            number += 1
        # Whoever asks after the swap gets the new version.
        return one(number)

    with ThreadPoolExecutor(CONCURRENT) as pool:
        workers = [pool.submit(keep_asking, worker) for worker in range(CONCURRENT)]
        try:
            wait_until("an answer for each", lambda: len(answered) >= CONCURRENT)
            saved_models.scale(live / "swapped", 2, factors[2])
            wait_until("version 1's end", lambda: ask.state("swapped", 1) == "END")
        finally:
            swapped.set()
        assert {worker.result() for worker in workers} == {2}

    assert set(answered) == {1, 2}


def test_a_half_written_version_is_never_served(ask: Asker, live: Path, models: Path) -> None:
    hidden = live / "halfway" / ".tmp-7"
    hidden.mkdir()
    shutil.copy(models / "scale" / "1" / "saved_model.pb", hidden)
    # A version that comes after it shows that the folder was read since.
    saved_models.scale(live / "halfway", 2, 2.0)
    wait_until("version 2", lambda: ask.state("halfway", 2) == "AVAILABLE")

    assert set(ask.status("halfway")) == {1, 2}


def test_a_broken_version_leaves_the_old_one_serving_and_says_why(ask: Asker, live: Path, models: Path) -> None:
    saved_models.broken(live / "outlived", 2, models / "scale" / "1")
    wait_until("version 2's end", lambda: ask.state("outlived", 2) == "END")

    state, error = ask.status("outlived")[2]
    assert (state, ask.state("outlived", 1)) == ("END", "AVAILABLE")
    if ask.engine.embedded:
        assert error.startswith("Read less bytes than requested; ")
        assert "saved_model.pb" in error
    else:
        assert error == "Read less bytes than requested"
    assert ask.predict("outlived", {"x": rows(1)})["version"].tolist() == [1]
    status, document = ask.get("outlived/versions/2")
    assert status == 200
    assert document["model_version_status"][0]["status"] == {"error_code": "OUT_OF_RANGE", "error_message": error}

    saved_models.scale(live / "outlived", 3, 3.0)
    wait_until("version 3", lambda: ask.state("outlived", 3) == "AVAILABLE")
    wait_until("version 1's end", lambda: ask.state("outlived", 1) == "END")


def test_a_version_whose_warm_up_fails_never_becomes_available(ask: Asker, live: Path) -> None:
    staged = saved_models.scale(live / "staged", 2, 2.0)
    saved_models.warmup(staged, {"x": rows(1)}, {"wrong": rows(1)})
    staged.rename(live / "badly-warmed" / "2")
    wait_until("version 2's end", lambda: ask.state("badly-warmed", 2) == "END")

    error = ask.status("badly-warmed")[2][1]
    assert error.startswith("Signature input alias: x(feed name: serving_default_x:0) not found in request")
    # The real server explains nothing.
    assert ("expects 'x': float32 (?, 3)" in error) == ask.engine.embedded
    assert ask.predict("badly-warmed", {"x": rows(1)})["version"].tolist() == [1]


def test_a_version_whose_folder_goes_is_unloaded(ask: Asker, live: Path) -> None:
    saved_models.scale(live / "removed", 2, 2.0)
    wait_until("version 2", lambda: ask.state("removed", 2) == "AVAILABLE")
    shutil.rmtree(live / "removed" / "1")
    wait_until("version 1's end", lambda: ask.state("removed", 1) == "END")

    assert ask.error("removed", {"x": rows(1)}, version=1)[0] == "NOT_FOUND"

    shutil.rmtree(live / "removed" / "2")
    wait_until("version 2's end", lambda: ask.state("removed", 2) == "END")
    assert ask.error("removed", {"x": rows(1)})[1].startswith("Servable not found for request: Latest(removed)")


def test_a_version_that_comes_back_is_loaded_again(ask: Asker, live: Path) -> None:
    away = (live / "returned" / "1").rename(live / "returned-1")
    wait_until("version 1's end", lambda: ask.state("returned", 1) == "END")
    away.rename(live / "returned" / "1")
    wait_until("version 1", lambda: ask.state("returned", 1) == "AVAILABLE")

    assert ask.predict("returned", {"x": rows(1)})["version"].tolist() == [1]
