"""Batching on a GPU: batches are padded to a few sizes, which the warm-up runs before a version is available.

Each new size costs once: cuDNN measures its algorithms, and XLA compiles. See `tfserving.foundation.batch_sizes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfserving.foundation.batch_sizes import LARGEST_ON_A_GPU, THREADS_ON_A_GPU, powers_of_two

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.server import Batching

# TensorFlow Serving's default, in batches: max_enqueued_batches of shared_batch_scheduler.h.
ENQUEUED = 10


def batching_on_a_gpu(batching: Batching, *, embedded: bool) -> Batching:
    """Return the parameters with their defaults on a GPU; what models.yaml sets stays.

    Without `allowed_batch_sizes` these are powers of two up to 32, or up to a smaller `max_batch_size`. Larger requests
    are split, unless `enable_large_batch_splitting` is false. An empty list stays: batches of any size.

    As many rows may wait as without splitting. TensorFlow Serving counts them in batches of `max_execution_batch_size`,
    and refuses a request with more rows than all of these (`ValidateBatchTaskQueueCapacity` in
    shared_batch_scheduler.h). The embedded server counts them in batches of `max_batch_size`.
    """
    changed: dict[str, Any] = {}
    if batching.num_batch_threads is None:
        changed["num_batch_threads"] = THREADS_ON_A_GPU
    if batching.allowed_batch_sizes is None:
        largest = batching.max_batch_size
        if batching.enable_large_batch_splitting is not False:
            largest = batching.max_execution_batch_size or min(largest, LARGEST_ON_A_GPU)
            changed |= {"enable_large_batch_splitting": True, "max_execution_batch_size": largest}
            if batching.max_enqueued_batches is None and not embedded:
                changed["max_enqueued_batches"] = ENQUEUED * -(-batching.max_batch_size // largest)
        changed["allowed_batch_sizes"] = powers_of_two(largest)
    return batching.model_copy(update=changed)
