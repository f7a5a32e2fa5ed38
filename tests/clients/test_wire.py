"""Predict requests and answers as bytes, compared with what protobuf makes of the same."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserving.clients.errors import Call
from tfserving.clients.wire import Bodies, predict_request, read_predict_response
from tfserving.foundation.messages import PredictRequest, PredictResponse, TensorProto
from tfserving.foundation.tensors import DTYPES, Array, from_proto, to_proto

RNG = np.random.default_rng(5)
SHAPES = [(), (0,), (0, 3), (1,), (2, 3), (1, 1, 300)]


def array_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if dtype == np.object_:
        strings = np.empty(shape, np.object_)
        strings[...] = b"nul\0"
        return strings
    return RNG.integers(0, 2, shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_a_request_is_the_message_that_protobuf_writes(dtype: Any) -> None:
    for shape in SHAPES:
        arrays = {"x": array_of(dtype.numpy, shape), "ü" * 100: array_of(dtype.numpy, (3,))}
        call = Call(model="m", version=3, signature="s")
        wanted = PredictRequest(output_filter=["y", "z"])
        wanted.model_spec.name, wanted.model_spec.signature_name, wanted.model_spec.version.value = "m", "s", 3
        for name, array in arrays.items():
            wanted.inputs[name].CopyFrom(to_proto(array))
        written = b"".join(predict_request(call, arrays, ("y", "z")))
        assert PredictRequest.FromString(written) == wanted, shape
        assert len(written) == wanted.ByteSize(), shape


@pytest.mark.parametrize("array", [np.arange(12.0).reshape(3, 4).T, np.arange(6.0)[::2], np.arange(3, dtype=">f4")])
def test_arrays_that_do_not_lie_in_order_go_out_in_order(array: Array) -> None:
    request = PredictRequest.FromString(b"".join(predict_request(Call(model="m"), {"x": array})))
    np.testing.assert_array_equal(from_proto(request.inputs["x"]), array)


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_an_answer_is_read_as_protobuf_reads_it(dtype: Any, typed: bool) -> None:
    for shape in SHAPES:
        answer = PredictResponse()
        answer.model_spec.version.value, answer.model_spec.signature_name = 7, "s"
        arrays = {name: array_of(dtype.numpy, shape) for name in ("z", "y")}
        for name, array in arrays.items():
            answer.outputs[name].CopyFrom(to_proto(array, typed=typed))
        version, signature, outputs = read_predict_response(answer.SerializeToString())
        assert (version, signature, list(outputs)) == (7, "s", ["y", "z"]), shape
        for name, array in outputs.items():
            assert array.dtype == arrays[name].dtype, shape
            assert array.shape == shape
            assert array.tolist() == arrays[name].tolist(), shape


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_numbers_that_lie_in_the_answer_as_in_memory_are_not_copied(dtype: Any, typed: bool) -> None:
    answer = PredictResponse()
    answer.outputs["y"].CopyFrom(to_proto(np.ones((64, 1000), dtype), typed=typed))
    data = answer.SerializeToString()
    array = read_predict_response(data)[2]["y"]
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(TensorProto(dtype=1, float_val=[1, 2], tensor_shape={"dim": [{"size": 4}]}), id="fewer values"),
        pytest.param(TensorProto(dtype=1, float_val=[1, 2], tensor_shape={"dim": [{"size": 1}]}), id="more values"),
        pytest.param(TensorProto(dtype=1, version_number=3, float_val=[1]), id="a version"),
        pytest.param(TensorProto(dtype=1, float_val=[1], double_val=[2]), id="two fields"),
        pytest.param(TensorProto(dtype=1, double_val=[2]), id="another type's field"),
        pytest.param(TensorProto(dtype=14, half_val=[0x3F80]), id="bfloat16"),
    ],
)
def test_what_is_unusual_is_read_as_protobuf_reads_it(tensor: Any) -> None:
    answer = PredictResponse()
    answer.outputs["y"].CopyFrom(tensor)
    array = read_predict_response(answer.SerializeToString())[2]["y"]
    wanted = from_proto(tensor)
    assert array.dtype == wanted.dtype
    np.testing.assert_array_equal(array, wanted)


def test_a_message_that_says_a_thing_twice_is_read_as_protobuf_reads_it() -> None:
    one, other = PredictResponse(), PredictResponse()
    one.model_spec.name, one.model_spec.version.value = "m", 1
    other.model_spec.version.value = 2
    for answer, value in ((one, 1.0), (other, 2.0)):
        answer.outputs["y"].CopyFrom(to_proto(np.array([value])))
    version, _, outputs = read_predict_response(one.SerializeToString() + other.SerializeToString())
    assert version == 2
    assert outputs["y"].tolist() == [2.0]
    unpacked = b"\x08\x01\x2d" + np.float32(3).tobytes() + b"\x2d" + np.float32(4).tobytes()
    shape = TensorProto(tensor_shape={"dim": [{"size": 2}]}).SerializeToString()
    entry = b"\x0a\x01y\x12" + bytes([len(shape + unpacked)]) + shape + unpacked
    answer = b"\x0a" + bytes([len(entry)]) + entry
    assert read_predict_response(answer)[2]["y"].tolist() == [3.0, 4.0]


def test_answers_of_one_length_are_told_apart() -> None:
    def read(name: str, version: int, array: Array) -> tuple[int | None, dict[str, Any]]:
        answer = PredictResponse()
        answer.model_spec.version.value = version
        answer.outputs[name].CopyFrom(to_proto(array))
        answer.outputs["z"].CopyFrom(to_proto(-array))
        version_read, _, outputs = read_predict_response(answer.SerializeToString())
        return version_read, {name: (str(it.dtype), it.tolist()) for name, it in outputs.items()}

    one, other = np.array([[1.0], [2.0]], np.float32), np.array([[3.0, 4.0]], np.float32)
    for _ in range(2):
        assert read("y", 1, one) == (1, {"y": ("float32", [[1], [2]]), "z": ("float32", [[-1], [-2]])})
        assert read("x", 1, one) == (1, {"x": ("float32", [[1], [2]]), "z": ("float32", [[-1], [-2]])})
        assert read("y", 2, one) == (2, {"y": ("float32", [[1], [2]]), "z": ("float32", [[-1], [-2]])})
        assert read("y", 2, other) == (2, {"y": ("float32", [[3, 4]]), "z": ("float32", [[-3, -4]])})
        as_ints = other.view(np.int32)
        assert read("y", 2, as_ints) == (2, {"y": ("int32", as_ints.tolist()), "z": ("int32", (-as_ints).tolist())})


def test_an_answer_without_a_version_or_outputs() -> None:
    assert read_predict_response(b"") == (None, "", {})


# How long an example takes depends on what else the machine does.
@settings(deadline=None)
@given(st.data())
def test_damaged_answers_are_read_as_protobuf_reads_them(data: st.DataObject) -> None:
    answer = PredictResponse()
    answer.model_spec.version.value = 300
    answer.outputs["y"].CopyFrom(to_proto(np.arange(6, dtype=np.float32).reshape(2, 3), typed=True))
    answer.outputs["s"].CopyFrom(to_proto(np.array([b"a", b"bc"], np.object_)))
    damaged = bytearray(answer.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    assert read(read_predict_response, bytes(damaged)) == read(by_protobuf, bytes(damaged))


def by_protobuf(data: bytes) -> tuple[int | None, str, dict[str, Array]]:
    answer = PredictResponse.FromString(data)
    spec = answer.model_spec
    version = spec.version.value if spec.HasField("version") else None
    return version, spec.signature_name, {name: from_proto(answer.outputs[name]) for name in sorted(answer.outputs)}


def read(reader: Any, data: bytes) -> Any:
    """What `reader` makes of `data`, in a form that can be compared."""
    try:
        version, signature, outputs = reader(data)
    except (DecodeError, ValueError) as error:
        return type(error)
    return (
        version,
        signature,
        {
            name: (it.dtype, it.shape, it.tolist() if it.dtype == np.object_ else it.tobytes())
            for name, it in outputs.items()
        },
    )


def test_large_bodies_are_made_in_the_same_memory_unless_it_is_still_in_use() -> None:
    bodies = Bodies()
    with bodies.body([b"a" * 1000, b"b"]) as first:
        address = id(first)
    del first
    with bodies.body([b"c" * 999, b"dd"]) as second:
        assert id(second) == address
        assert second == b"c" * 999 + b"dd"
        with bodies.body([b"e"]) as third:
            assert third == b"e"
    with bodies.body([b"f" * 5]) as fourth:
        assert fourth == b"fffff"
    assert second == b"c" * 999 + b"dd"
    assert third == b"e"


def test_bfloat16_goes_out_as_it_is() -> None:
    array = np.array([1.5, -2], ml_dtypes.bfloat16)
    request = PredictRequest.FromString(b"".join(predict_request(Call(model="m"), {"x": array})))
    assert request.inputs["x"].tensor_content == array.tobytes()
