"""The sizes of batches on a GPU, and the threads that run them.

A GPU pays for each new size of a batch once: cuDNN measures its algorithms (0.2 to 0.5 s for ResNet50 on an H200), and
XLA compiles (7 to 13 s there). So batches are padded to a few sizes, which the warm-up runs before the first request.
"""

from __future__ import annotations

# It is the size of the measurements on an H200, where ResNet50 ran 32 rows in the time of three runs of one row. The
# warm-up requests of an exported version have the same sizes by default, so TensorFlow Serving runs them, too.
LARGEST_ON_A_GPU = 32
# A GPU runs one batch at a time. The next one is assembled, and copied to it, meanwhile.
THREADS_ON_A_GPU = 2


def powers_of_two(largest: int) -> tuple[int, ...]:
    """Returns 1, 2, 4, … below `largest`, and `largest` itself. Raises ValueError when `largest` is below 1."""
    if largest < 1:
        raise ValueError(f"the largest batch size is {largest}; it must be at least 1")
    sizes = [1]
    while sizes[-1] * 2 < largest:
        sizes.append(sizes[-1] * 2)
    return tuple(sizes) if largest == 1 else (*sizes, largest)
