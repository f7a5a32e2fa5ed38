"""The parameters of batching on a GPU."""

from __future__ import annotations

from typing import Any

import pytest

from tfserving.serving.gpu_batching import batching_on_a_gpu
from tfserving.serving.models_yaml.server import Batching

TO_32 = (1, 2, 4, 8, 16, 32)


def on_a_gpu(embedded: bool = False, **given: Any) -> dict[str, Any]:
    made = batching_on_a_gpu(Batching.model_validate(given), embedded=embedded).model_dump()
    names = ("allowed_batch_sizes", "max_execution_batch_size", "enable_large_batch_splitting", "num_batch_threads")
    return {name: made[name] for name in (*names, "max_enqueued_batches")}


def test_batches_have_few_sizes_and_larger_requests_are_split() -> None:
    assert on_a_gpu() == {
        "allowed_batch_sizes": TO_32,
        "max_execution_batch_size": 32,
        "enable_large_batch_splitting": True,
        "num_batch_threads": 2,
        "max_enqueued_batches": 320,
    }


def test_the_embedded_server_counts_waiting_rows_without_the_split() -> None:
    assert on_a_gpu(embedded=True)["max_enqueued_batches"] is None


@pytest.mark.parametrize(
    ("given", "sizes", "execution"),
    [
        ({"max_batch_size": 20}, (1, 2, 4, 8, 16, 20), 20),
        ({"max_batch_size": 1}, (1,), 1),
        ({"max_batch_size": 64}, TO_32, 32),
        ({"max_execution_batch_size": 128}, (*TO_32, 64, 128), 128),
        ({"max_execution_batch_size": 8}, (1, 2, 4, 8), 8),
        ({"max_batch_size": 100, "enable_large_batch_splitting": False}, (*TO_32, 64, 100), None),
        ({"allowed_batch_sizes": [8, 1000]}, (8, 1000), None),
        ({"allowed_batch_sizes": []}, (), None),
    ],
)
def test_what_models_yaml_sets_stays(given: dict[str, Any], sizes: tuple[int, ...], execution: int | None) -> None:
    made = on_a_gpu(**given)
    assert (made["allowed_batch_sizes"], made["max_execution_batch_size"]) == (sizes, execution)
    assert made["num_batch_threads"] == 2


def test_threads_and_the_queue_can_be_chosen() -> None:
    made = on_a_gpu(num_batch_threads=1, max_enqueued_batches=50)
    assert (made["num_batch_threads"], made["max_enqueued_batches"]) == (1, 50)


@pytest.mark.parametrize("given", [{}, {"max_batch_size": 7}, {"max_batch_size": 3000}])
def test_the_largest_request_fits_an_empty_queue(given: dict[str, Any]) -> None:
    """TensorFlow Serving refuses a request with more rows than the batches that may wait."""
    made = on_a_gpu(**given)
    assert made["max_enqueued_batches"] * made["max_execution_batch_size"] >= 10 * given.get("max_batch_size", 1000)
