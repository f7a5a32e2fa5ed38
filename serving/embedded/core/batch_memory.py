"""The memory of batches with large rows: it is reused, so its pages exist, and aligned, so TensorFlow doesn't copy it.

TensorFlow reads an array in place when its address is a multiple of 64, and copies it otherwise
(https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/c/tf_tensor.cc, `TF_NewTensor`). An output can be that
same memory, for example that of an identity. So a block is reused only when no array refers to it any more.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from collections.abc import Sequence
from math import prod

import numpy as np

from tfserving.foundation.tensors import Array

ALIGNMENT = 64
# The most memory that is kept for reuse, by all batches of a scheduler.
MOST_KEPT_BYTES = 512 << 20
_UNIT = 1 << 20


class Memory:
    """Blocks of memory, from which batches get arrays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: list[_Block] = []

    def arrays(self, like: Sequence[Array], rows: int) -> list[Array]:
        """Returns an array of `rows` rows for each array in `like`, with the type and the shape of its rows.

        The values are arbitrary. The types must be numbers.
        """
        places, size = [], 0
        for array in like:
            places.append(size)
            size += -(-row_bytes(array) * rows // ALIGNMENT) * ALIGNMENT
        memory = self._take(size)
        return [
            memory[place : place + row_bytes(array) * rows].view(array.dtype).reshape(rows, *array.shape[1:])
            for place, array in zip(places, like, strict=True)
        ]

    def _take(self, size: int) -> Array:
        """Returns bytes that nothing else refers to."""
        with self._lock:
            # The smallest that is large enough, and not much larger.
            fitting = [block for block in self._blocks if size <= block.size <= 4 * max(size, _UNIT)]
            for block in sorted(fitting, key=lambda block: block.size):
                if block.is_free:
                    return block.take()
            block = _Block(-(-size // _UNIT) * _UNIT)
            self._keep(block)
            return block.take()

    def _keep(self, block: _Block) -> None:
        """Keeps `block` for reuse if there is room, in place of free blocks where there isn't."""
        kept = sum(other.size for other in self._blocks)
        for other in [other for other in self._blocks if other.is_free]:
            if kept + block.size <= MOST_KEPT_BYTES:
                break
            self._blocks.remove(other)
            kept -= other.size
        if kept + block.size <= MOST_KEPT_BYTES:
            self._blocks.append(block)


class _Block:
    """Memory of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # The array that all arrays on this memory refer to, as long as there is one.
        self._taken: weakref.ref[Array] | None = None

    @property
    def is_free(self) -> bool:
        return self._taken is None or self._taken() is None

    def take(self) -> Array:
        # numpy makes this array the base of each of its views, and of their views.
        taken = np.frombuffer(self._map, np.uint8)
        self._taken = weakref.ref(taken)
        return taken


def row_bytes(array: Array) -> int:
    """Returns the size of one row."""
    return prod(array.shape[1:]) * array.itemsize
