"""The warm-up of batch sizes: which sizes run, with which rows, and what happens when one fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.embedded import saved_models
from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core import batch_warmup, loader, session_call, warmup
from tfserving.serving.embedded.core.batch_parameters import Parameters
from tfserving.serving.embedded.core.batch_warmup import play_sizes
from tfserving.serving.embedded.core.batching import Scheduler
from tfserving.serving.embedded.core.loader import Batching, Runtime, Servable, load
from tfserving.serving.embedded.observability import metrics

EIGHT = Parameters(8, allowed_batch_sizes=(1, 2, 4, 8))
Make = Callable[..., Servable]


@pytest.fixture
def version(tmp_path: Path) -> Path:
    def both(x: Any, name: Any) -> dict[str, Any]:
        # No more than 6 rows, as on a device whose memory is too small for more.
        with tf.control_dependencies([tf.debugging.assert_less(tf.shape(x)[0], 7)]):
            return {"y": tf.reduce_sum(x, axis=1), "name": tf.identity(name)}

    signatures = {
        "both": saved_models.function(both, x=(tf.float32, [None, None]), name=(tf.string, [None])),
        "serving_default": saved_models.function(lambda x: {"y": x * 2}, x=(tf.float32, [None, 3])),
    }
    return saved_models.save(tmp_path / "model", 1, tf.Module(), signatures)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[Array]]:
    """The inputs of each run of the session."""
    inputs: list[list[Array]] = []
    make_call = session_call.make_call

    def made(*given: Any) -> Any:
        call = make_call(*given)

        def noted(*arrays: Array) -> list[Array]:
            inputs.append(list(arrays))
            return call(*arrays)

        return noted

    monkeypatch.setattr(loader, "make_call", made)
    return inputs


@pytest.fixture
def loaded(version: Path) -> Iterator[Make]:
    servables = []

    def make(parameters: Parameters = EIGHT) -> Servable:
        scheduler = Scheduler(1)
        servables.append(load("model", 1, version, Runtime(batching=Batching(scheduler, scheduler, parameters))))
        return servables[-1]

    yield make
    for servable in servables:
        servable.close()


def floats(rows: int, columns: int = 3) -> Array:
    return np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)


def test_each_allowed_size_runs_that_the_requests_did_not(
    version: Path, loaded: Make, ran: list[list[Array]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    saved_models.warmup(version, {"x": floats(3)})
    servable = loaded()
    warmup.play(servable, version)
    # Three rows run at size 4.
    assert play_sizes(servable, version) == 3
    # In the metrics they count as warm-up.
    assert f'model_warmup_latency_count{{model_path="{version}",status="OK"}} 4' in metrics.page().decode()
    assert [len(inputs[0]) for inputs in ran] == [4, 1, 2, 8]
    assert ran[-1][0][:, 0].tolist() == [0, 3, 6, 0, 3, 6, 0, 3]
    assert "model 'model' version 1: the warm-up ran 3 batch sizes in" in caplog.text


def test_a_larger_request_runs_in_parts_and_its_sizes_do_not_run_again(
    version: Path, loaded: Make, ran: list[list[Array]]
) -> None:
    saved_models.warmup(version, {"x": floats(13)})
    servable = loaded(Parameters(allowed_batch_sizes=(1, 2, 4, 8), max_execution_batch_size=8))
    warmup.play(servable, version)
    assert [len(inputs[0]) for inputs in ran] == [8, 8]
    assert play_sizes(servable, version) == 3
    assert [len(inputs[0]) for inputs in ran[2:]] == [1, 2, 4]


def test_each_run_is_repeated_as_often_as_a_request(version: Path, loaded: Make, ran: list[list[Array]]) -> None:
    saved_models.warmup(version, {"x": floats(8)})
    servable = loaded()
    warmup.play(servable, version, 2)
    play_sizes(servable, version, 2)
    assert [len(inputs[0]) for inputs in ran] == [8, 8, 1, 1, 2, 2, 4, 4]


def test_each_length_has_its_sizes_and_a_size_that_fails_is_logged(
    version: Path, loaded: Make, ran: list[list[Array]], caplog: pytest.LogCaptureFixture
) -> None:
    names = np.array([b"a", b"b"], object)
    saved_models.warmup(
        version, {"x": floats(2, 2), "name": names}, {"x": floats(2, 5), "name": names}, signature="both"
    )
    servable = loaded()
    warmup.play(servable, version)
    assert play_sizes(servable, version) == 4
    assert [inputs[1].shape for inputs in ran] == [(2, 2), (2, 5), (1, 2), (4, 2), (8, 2), (1, 5), (4, 5), (8, 5)]
    assert ran[3][0].tolist() == [b"a", b"b", b"a", b"b"]
    assert "the warm-up of a batch of 8 rows failed: " in caplog.text
    # The version serves requests of other sizes.
    signature = servable.signatures["both"]
    assert servable.run(signature, [names, floats(2, 2)], ("y",))[0].tolist() == [1, 5]


@pytest.mark.parametrize("parameters", [Parameters(8), Parameters()])
def test_without_allowed_sizes_nothing_more_runs(version: Path, loaded: Make, parameters: Parameters) -> None:
    saved_models.warmup(version, {"x": floats(3)})
    servable = loaded(parameters)
    warmup.play(servable, version)
    assert play_sizes(servable, version) == 0


def test_after_the_warm_up_no_call_keeps_its_inputs(version: Path, loaded: Make) -> None:
    saved_models.warmup(version, {"x": floats(3)})
    servable = loaded()
    warmup.play(servable, version)
    play_sizes(servable, version)
    servable.run(servable.signatures["both"], [np.array([b"a"], object), floats(1)], ("name", "y"))
    assert [call.played for call in servable.end_warm_up()] == [None, None]


@pytest.mark.parametrize(
    ("limit", "value", "text"),
    [
        ("MOST_RUNS", 1, "the warm-up runs 1 of 3 batch sizes, the limit"),
        ("MOST_BYTES", 24, "the warm-up leaves out batches of 8 rows, whose inputs take 96 bytes; the limit is 24"),
    ],
)
def test_the_number_of_runs_and_their_size_are_limited(
    version: Path,
    loaded: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limit: str,
    value: int,
    text: str,
) -> None:
    monkeypatch.setattr(batch_warmup, limit, value)
    saved_models.warmup(version, {"x": floats(3)})
    servable = loaded()
    warmup.play(servable, version)
    play_sizes(servable, version)
    assert text in caplog.text
