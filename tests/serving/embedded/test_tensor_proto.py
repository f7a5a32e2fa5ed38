from __future__ import annotations

import numpy as np
import pytest

from clients.messages import TensorProto
from clients.tensors import DTYPES, STRING, Array, DType, to_proto
from serving.embedded.tensor_proto import write_tensor


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3), (40, 100)])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_a_tensor_is_written_as_its_typed_field_would_be(dtype: DType, shape: tuple[int, ...]) -> None:
    numbers = np.random.default_rng(0).integers(0, 2, shape)
    array: Array = numbers.astype(dtype.numpy)
    if dtype is STRING:
        array = np.array(numbers.astype(str).astype("S"), object)
    proto = TensorProto()

    write_tensor(proto, array)

    assert proto.SerializeToString(deterministic=True) == to_proto(array, typed=True).SerializeToString(
        deterministic=True
    )


def test_a_tensor_that_is_not_contiguous_keeps_its_order() -> None:
    proto = TensorProto()

    write_tensor(proto, np.arange(6, dtype=np.float32).reshape(2, 3).T)

    assert list(proto.float_val) == [0, 3, 1, 4, 2, 5]
