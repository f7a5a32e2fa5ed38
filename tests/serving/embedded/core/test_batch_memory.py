from __future__ import annotations

import numpy as np
import pytest

from tfserving.serving.embedded.core import batch_memory
from tfserving.serving.embedded.core.batch_memory import ALIGNMENT, Memory

PIXELS, NUMBERS = np.zeros((1, 100, 3), np.uint8), np.zeros((1, 7), np.float32)


def test_arrays_have_the_types_and_shapes_of_rows_and_are_aligned() -> None:
    pixels, numbers = Memory().arrays([PIXELS, NUMBERS], 5)
    assert [array.dtype for array in (pixels, numbers)] == [PIXELS.dtype, NUMBERS.dtype]
    assert [array.shape for array in (pixels, numbers)] == [(5, 100, 3), (5, 7)]
    assert [array.ctypes.data % ALIGNMENT for array in (pixels, numbers)] == [0, 0]
    pixels[:] = 1
    numbers[:] = 2
    assert pixels.min() == pixels.max() == 1


def test_memory_is_reused_when_no_array_refers_to_it() -> None:
    memory = Memory()
    (first,) = memory.arrays([NUMBERS], 1000)
    address = first.ctypes.data
    part = first[3:, 2].reshape(-1, 1)
    del first
    (second,) = memory.arrays([NUMBERS], 1000)
    assert second.ctypes.data != address
    del part
    (third,) = memory.arrays([NUMBERS], 500)
    assert third.ctypes.data == address


def test_a_much_larger_block_is_left_to_larger_batches() -> None:
    memory = Memory()
    address = memory.arrays([np.zeros((1, 1 << 20), np.uint8)], 64)[0].ctypes.data
    assert memory.arrays([NUMBERS], 1)[0].ctypes.data != address


def test_no_more_is_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_memory, "MOST_KEPT_BYTES", 3 << 20)
    memory = Memory()
    row = np.zeros((1, 1 << 20), np.uint8)
    used = [memory.arrays([row], 1)[0] for _ in range(5)]
    assert sum(block.size for block in memory._blocks) == 3 << 20
    used.clear()
    # Free blocks make room for one that is larger.
    memory.arrays([row], 2)
    memory.arrays([row], 3)
    assert [block.size for block in memory._blocks] == [3 << 20]
