"""Unloading gives memory back: versions can be swapped for as long as the server lives."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf

from tests.serving.embedded import saved_models
from tests.serving.embedded.running import Asker, Start, embedded_only, wait_until

ROWS, COLUMNS = 1250, 10_000
SWAPS = 100
MB = 1_000_000


def large(folder: Path) -> Path:
    """Version 1 of a model with 50 MB of weights."""
    module = tf.Module()
    module.weights = tf.Variable(tf.random.stateless_uniform((ROWS, COLUMNS), (1, 2)))
    run = saved_models.function(lambda x: {"y": tf.matmul(x, module.weights)}, x=(tf.float32, [None, ROWS]))
    return saved_models.save(folder, 1, module, {"serving_default": run})


@embedded_only
@pytest.mark.timeout(600)
def test_a_hundred_swaps_of_a_50_mb_model_do_not_grow_the_process(start_command: Start, tmp_path: Path) -> None:
    first = large(tmp_path / "large")
    assert ROWS * COLUMNS * 4 == 50 * MB
    original = shutil.copytree(first, tmp_path / "original")
    server = start_command(f"--model_base_path={tmp_path}/large", "--file_system_poll_wait_seconds=0.02").ready()
    process = psutil.Process(server.process.pid)
    ask = Asker(server)
    one = {"x": np.ones((1, ROWS), np.float32)}

    def swap(version: int) -> None:
        hidden = tmp_path / "large" / ".next"
        # Hard links: the files are what takes room, not their names.
        shutil.copytree(original, hidden, copy_function=os.link)
        hidden.rename(tmp_path / "large" / str(version))
        wait_until("the new version", lambda: ask.status("default").get(version, ("",))[0] == "AVAILABLE")
        ask.predict("default", one)
        wait_until("the old one's end", lambda: ask.status("default")[version - 1][0] == "END")
        shutil.rmtree(tmp_path / "large" / str(version - 1))

    # What is set up once is no growth.
    for version in range(2, 7):
        swap(version)
    before, threads, files = process.memory_info().rss, process.num_threads(), process.num_fds()
    for version in range(7, 7 + SWAPS):
        swap(version)

    ask.close()
    assert (process.memory_info().rss - before) / MB < 100
    assert process.num_threads() - threads <= 4
    assert process.num_fds() - files <= 4
