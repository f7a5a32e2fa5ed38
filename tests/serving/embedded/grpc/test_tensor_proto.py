from __future__ import annotations

import itertools

import numpy as np

from tfserving.foundation.messages import PredictResponse
from tfserving.foundation.tensors import DTYPES, STRING, Array, to_proto
from tfserving.serving.embedded.grpc.tensor_proto import write_response

SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (3,), (2, 0, 4), (2, 3), (40, 100))


def test_answers_are_the_messages_that_protobuf_would_write() -> None:
    for dtype, shape, content in itertools.product(DTYPES, SHAPES, (False, True)):
        case = f"{dtype.name} {shape} in {'tensor_content' if content else 'typed fields'}"
        numbers = np.random.default_rng(0).integers(0, 2, shape)
        array: Array = numbers.astype(dtype.numpy)
        if dtype is STRING:
            array = np.array(numbers.astype(str).astype("S"), object)
        wanted = PredictResponse()
        wanted.model_spec.name, wanted.model_spec.signature_name = "model", "signature"
        wanted.model_spec.version.value = 3
        for name in ("a", "b" * 200):
            wanted.outputs[name].CopyFrom(to_proto(array, typed=not content, pack=content))

        written = write_response("model", 3, "signature", {"a": array, "b" * 200: array}, content=content)

        assert PredictResponse.FromString(written) == wanted, case
        assert len(written) == wanted.ByteSize(), case


def test_a_tensor_that_is_not_contiguous_keeps_its_order() -> None:
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T

    written = PredictResponse.FromString(write_response("model", 1, "", {"y": turned}))

    assert list(written.outputs["y"].float_val) == [0, 3, 1, 4, 2, 5]
