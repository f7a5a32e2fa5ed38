"""Large tensors are read in the message's own bytes, and are what protobuf reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from tfserving.foundation.messages import PredictRequest
from tfserving.foundation.tensors import Array, from_proto, read_flat, to_proto
from tfserving.serving.embedded.grpc.large_tensors import LARGE_BYTES, Cut, LargeRequest, parse
from tfserving.serving.embedded.grpc.tensor_proto import field

LARGE = np.arange(LARGE_BYTES, dtype=np.float32).reshape(4, -1)


def message(**inputs: Array) -> Any:
    request = PredictRequest(output_filter=["y"])
    request.model_spec.name = "m"
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(to_proto(array, pack=True))
    return request


def arrays(request: Any) -> dict[str, Array]:
    """The inputs of a request."""
    found = {}
    for name, proto in request.inputs.items():
        if isinstance(proto, Cut):
            flat, shape = read_flat(proto.proto, content=proto.content)
            found[name] = flat.reshape(shape)
        else:
            found[name] = from_proto(proto)
    return found


def same(data: bytes) -> Any:
    """Parses `data`, and asserts that it is what protobuf reads."""
    wanted, found = PredictRequest.FromString(data), parse(data)
    assert found.model_spec == wanted.model_spec
    assert list(found.output_filter) == list(wanted.output_filter)
    read, expected = arrays(found), arrays(wanted)
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int64, np.bool_, np.complex64])
def test_large_inputs_are_read_in_place_beside_small_ones(dtype: Any) -> None:
    large = (np.arange(20 * LARGE_BYTES) % 2).astype(dtype).reshape(20, -1)
    data = message(a=np.arange(3), large=large, other=large[:10], z=np.array(["text"])).SerializeToString()
    found = same(data)
    assert isinstance(found, LargeRequest)
    assert found.HasField("model_spec")
    assert [name for name, proto in sorted(found.inputs.items()) if isinstance(proto, Cut)] == ["large", "other"]
    flat, _ = read_flat(found.inputs["large"].proto, content=found.inputs["large"].content)
    assert np.shares_memory(flat, np.frombuffer(data, np.uint8))


def test_a_small_message_and_large_strings_are_parsed_as_they_are() -> None:
    assert isinstance(same(message(x=np.arange(3)).SerializeToString()), PredictRequest)
    strings = np.array([b"a" * LARGE_BYTES, b"b"], object)
    found = same(message(x=LARGE, s=strings).SerializeToString())
    assert isinstance(found.inputs["x"], Cut)
    assert not isinstance(found.inputs["s"], Cut)


def tensor(array: Array) -> bytes:
    return bytes(to_proto(array).SerializeToString())


@pytest.mark.parametrize(
    "inputs",
    [
        # A name twice: the last one counts.
        [(b"x", tensor(LARGE)), (b"x", tensor(LARGE + 1))],
        [(b"x", tensor(LARGE)), (b"x", tensor(LARGE[:1, :2]))],
        [(b"x", tensor(LARGE[:1, :2])), (b"x", tensor(LARGE))],
        # A content twice: the last one counts, too.
        [(b"x", tensor(LARGE) + field(4, (LARGE + 1).tobytes()))],
        [(b"x", field(4, b"abc") + tensor(LARGE))],
    ],
    ids=("large names", "large and small", "small and large", "large contents", "small and large content"),
)
def test_of_what_is_there_twice_the_last_counts(inputs: list[tuple[bytes, bytes]]) -> None:
    same(b"".join(field(2, field(1, key) + field(2, value)) for key, value in inputs))


@pytest.mark.parametrize(
    "entry",
    [
        # The order of fields is free, and a missing key is the empty text. Parts of a message are merged.
        field(2, tensor(LARGE)) + field(1, b"x"),
        field(2, tensor(LARGE)),
        field(1, b"x") + field(2, tensor(LARGE)) + field(2, tensor(LARGE[:1])[:2]),
        field(1, b"x") + field(2, tensor(LARGE)) + field(7, b"unknown"),
        field(1, b"x") + field(2, tensor(LARGE) + b"\x80\x08\x05" + b"\x9d\x08\x01\x02\x03\x04"),
    ],
    ids=("order", "no key", "two parts", "unknown field", "unknown numbers"),
)
def test_unusual_messages_are_what_protobuf_reads(entry: bytes) -> None:
    same(field(2, entry))


@pytest.mark.parametrize("cut", [1, 5, LARGE_BYTES])
def test_a_message_that_is_cut_off_is_invalid(cut: int) -> None:
    with pytest.raises(DecodeError):
        parse(message(x=LARGE).SerializeToString()[:-cut])


def test_a_key_that_is_not_text_is_invalid() -> None:
    with pytest.raises(DecodeError):
        parse(field(2, field(1, b"\xff") + field(2, tensor(LARGE))))
