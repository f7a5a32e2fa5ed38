"""How many parts a message has is told as protobuf would count them, before it is parsed."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserving.foundation.messages import ClassificationRequest, Example, PredictRequest
from tfserving.foundation.tensors import to_proto
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.grpc.parts import SMALL_BYTES, check_parts, kind_of, packed_strings

PREDICT, CLASSIFY = kind_of(PredictRequest.DESCRIPTOR), kind_of(ClassificationRequest.DESCRIPTOR)


def predict(**inputs: Any) -> bytes:
    request = PredictRequest()
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(to_proto(array, typed=True))
    return bytes(request.SerializeToString())


def classify(count: int, features: int) -> bytes:
    example = Example()
    for number in range(features):
        example.features.feature[f"f{number}"].bytes_list.value.append(b"text")
    request = ClassificationRequest()
    request.input.example_list.examples.extend([example] * count)
    return bytes(request.SerializeToString())


@pytest.mark.parametrize(
    ("data", "kind", "parts"),
    [
        (predict(x=np.ones(100_000, np.float32)), PREDICT, 10),
        (predict(x=np.arange(100_000)), PREDICT, 10),
        (predict(x=np.full(60_000, b"a", object)), PREDICT, 60_010),
        (predict(**{f"x{number}": np.ones((), np.float32) for number in range(10_000)}), PREDICT, 60_000),
        # Input, list; of each example itself, its features and, for each feature, entry, key, value, list, text.
        (classify(2_000, 10), CLASSIFY, 2_000 * (2 + 10 * 5) + 10),
    ],
    ids=["floats", "integers", "strings", "inputs", "features"],
)
def test_a_message_with_more_parts_than_allowed_is_refused_and_others_are_not(
    data: bytes, kind: Any, parts: int
) -> None:
    assert len(data) > SMALL_BYTES
    check_parts(data, kind, parts)
    check_parts(data, kind, 0)
    with pytest.raises(RequestError, match="--max_grpc_parts") as error:
        check_parts(data, kind, max(1, int(parts * 0.9) - 10))
    assert error.value.code is Code.RESOURCE_EXHAUSTED


def test_strings_in_content_are_parts_too() -> None:
    words = to_proto(np.full(6, b"a", object), pack=True)
    assert packed_strings(words) == 6
    assert packed_strings(to_proto(np.full(6, b"a", object))) == packed_strings(to_proto(np.ones(6))) == 0
    words.tensor_shape.dim[0].size = 2**60
    assert packed_strings(words) == 12


def test_a_small_message_is_not_looked_at() -> None:
    check_parts(predict(x=np.full(1000, b"a", object)), PREDICT, 1)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2**63))
def test_what_is_no_message_is_left_to_protobuf(noise: bytes, most: int) -> None:
    data = predict(x=np.ones(20_000, np.float32)) + noise
    with contextlib.suppress(RequestError):
        check_parts(data, PREDICT, most)
    check_parts(noise * 2000, PREDICT, 2**40)
