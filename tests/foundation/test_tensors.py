from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tfserving.foundation.messages import TensorProto
from tfserving.foundation.tensors import (
    BY_NAME,
    BY_WIRE_NAME,
    DTYPES,
    Array,
    dtype_of,
    from_numbers,
    from_proto,
    to_proto,
)


def example(name: str) -> Array:
    dtype = BY_NAME[name].numpy
    if name == "string":
        return np.array([b"a\0", b"", "ü".encode()], np.object_)
    if dtype.kind in "iu":
        return np.array([np.iinfo(dtype).min, 0, np.iinfo(dtype).max], dtype)
    if dtype.kind == "c":
        return np.array([1 + 2j, -0.0, complex(np.nan, np.inf)], dtype)
    return np.array([1, 0, 1] if dtype.kind == "b" else [1.5, -0.0, np.nan], dtype)


@pytest.mark.parametrize("form", [{}, {"typed": True}, {"pack": True}], ids=["content", "typed", "packed"])
@pytest.mark.parametrize("name", BY_NAME)
def test_every_type_survives_the_wire_in_every_form(name: str, form: dict[str, bool]) -> None:
    for array in (example(name), example(name).reshape(1, 3, 1), example(name)[:0], example(name)[0:1].reshape(())):
        proto = TensorProto.FromString(to_proto(array, **form).SerializeToString())
        answered = from_proto(proto)
        assert answered.dtype == array.dtype
        assert answered.shape == array.shape
        if name == "string":
            assert answered.tolist() == array.tolist()
        else:
            assert answered.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [np.arange(12, dtype=np.int32).reshape(3, 4).T, np.arange(3, dtype=">f4"), np.arange(9.0)[::2]],
    ids=["transposed", "big-endian", "strided"],
)
def test_the_wire_is_in_row_order_and_little_endian_whatever_the_array_is(array: Array) -> None:
    for typed in (False, True):
        np.testing.assert_array_equal(from_proto(to_proto(array, typed=typed)), array)


def test_texts_are_utf8() -> None:
    for array in (np.array(["ü"]), np.array(["ü"], np.object_), np.array(["ü".encode()])):
        assert list(to_proto(array).string_val) == ["ü".encode()]


def test_wire_names_are_those_of_the_enum() -> None:
    assert BY_WIRE_NAME["DT_FLOAT"].name == "float32"
    assert BY_WIRE_NAME["DT_HALF"].name == "float16"
    assert BY_WIRE_NAME["DT_BFLOAT16"].numpy == np.dtype(ml_dtypes.bfloat16)
    assert len(BY_WIRE_NAME) == len(DTYPES)


@pytest.mark.parametrize(
    ("values", "shape", "wanted"),
    [
        ([7], (3,), [7, 7, 7]),
        ([1, 2], (4,), [1, 2, 2, 2]),
        ([], (2,), [0, 0]),
        ([1, 2, 3], (2,), [1, 2]),
    ],
)
def test_a_typed_field_repeats_its_last_value_and_is_cut(
    values: list[int], shape: tuple[int, ...], wanted: list[int]
) -> None:
    for dtype, field in (("int32", "int_val"), ("float32", "float_val"), ("bfloat16", "half_val")):
        proto = TensorProto(dtype=BY_NAME[dtype].number)
        for size in shape:
            proto.tensor_shape.dim.add(size=size)
        numbers = np.array(values, ml_dtypes.bfloat16).view(np.uint16).tolist() if dtype == "bfloat16" else values
        getattr(proto, field).extend(numbers)
        assert from_proto(proto).astype(np.int64).tolist() == wanted


def test_missing_strings_are_empty() -> None:
    proto = TensorProto(dtype=BY_NAME["string"].number)
    proto.tensor_shape.dim.add(size=2)
    assert from_proto(proto).tolist() == [b"", b""]


def with_shape(*sizes: int, **fields: Any) -> Any:
    proto = TensorProto(dtype=1, **fields)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("proto", "said"),
    [
        (with_shape(2, tensor_content=b"1234567"), r"tensor_content has 7 bytes, float32 of shape \(2,\) needs 8"),
        (with_shape(-1), r"a tensor needs a fully known shape, this one has \(-1,\)"),
        (
            with_shape(2**31),
            r"0 values are given for shape \(2147483648,\): float32 of that shape would be 8589934592 bytes",
        ),
        (with_shape(2**62, float_val=[1.0]), "1 values are given for shape"),
        (TensorProto(dtype=20), "a tensor of type number 20 is not one"),
        (TensorProto(dtype=99), "a tensor of type number 99 is not one"),
    ],
)
def test_tensors_that_cannot_be_are_refused(proto: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_proto(proto)


def strings(content: bytes, *sizes: int) -> Any:
    proto = with_shape(*sizes, tensor_content=content)
    proto.dtype = BY_NAME["string"].number
    return proto


def test_packed_strings_are_their_lengths_and_then_their_bytes() -> None:
    """The bytes that TensorFlow's EncodeStringList writes."""
    array = np.array([b"a", b"", b"x" * 200], np.object_)
    proto = to_proto(array, pack=True)
    assert proto.tensor_content == b"\x01\x00\xc8\x01" + b"a" + b"x" * 200
    assert not proto.string_val


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"\x03abc", b"abc"),
        (b"\x00", b""),
        # Longer than it needs to be, and with bits that 32 do not hold: TensorFlow's own tf.io.parse_tensor reads both.
        (b"\x83\x00abc", b"abc"),
        (b"\x83\x80\x80\x80\x10abc", b"abc"),
    ],
)
def test_a_packed_length_is_read_as_tensorflow_reads_it(content: bytes, wanted: bytes) -> None:
    assert from_proto(strings(content)).item() == wanted
    assert from_proto(strings(content, 1)).tolist() == [wanted]


def test_a_tensor_without_elements_has_whatever_content() -> None:
    assert from_proto(strings(b"\x03abc", 0)).shape == (0,)
    assert from_proto(with_shape(0, 3, tensor_content=b"1")).shape == (0, 3)


@pytest.mark.parametrize(
    ("content", "count", "said"),
    [
        (b"\x01\x02abcd", 2, "tensor_content has 6 bytes, its 2 strings end at byte 5"),
        (b"\x01\x02ab", 2, "tensor_content has 4 bytes, its 2 strings end at byte 5"),
        (b"\x01\x82", 2, "tensor_content does not begin with the lengths of 2 strings"),
        (b"\x83\x80\x80\x80\x80\x00abc", 1, "tensor_content does not begin with the lengths of 1 strings"),
        (b"\xff" * 20, 4, "tensor_content does not begin with the lengths of 4 strings"),
        (b"\xff\xff\xff\xff\x0fabc", 1, "tensor_content has 8 bytes, its 1 strings end at byte 4294967300"),
        (b"\x00", 2**40, "tensor_content has 1 bytes, the lengths of 1099511627776 strings need more"),
        (bytes(100), 100, "100 strings in tensor_content would be 2500 bytes, 2000 are the most"),
    ],
)
def test_packed_strings_that_cannot_be_are_refused(content: bytes, count: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_proto(strings(content, count), largest=2000)


def test_bools_in_content_are_zeros_and_ones() -> None:
    proto = with_shape(3, tensor_content=b"\x00\x01\x02")
    proto.dtype = BY_NAME["bool"].number
    with pytest.raises(ValueError, match="tensor_content of bool has bytes other than 0 and 1"):
        from_proto(proto)


@pytest.mark.parametrize("array", [np.array(["2020"], "M8[Y]"), np.zeros(1, [("a", "f4")]), np.zeros(1, np.longdouble)])
def test_types_that_tensors_do_not_have_are_refused(array: Array) -> None:
    with pytest.raises(TypeError, match="has no tensor type"):
        dtype_of(array)


def test_objects_that_are_no_strings_are_refused() -> None:
    with pytest.raises(TypeError, match="a string tensor holds bytes or str, not int: 1"):
        to_proto(np.array([1], np.object_))


def test_large_unsigned_integers_stay_integers() -> None:
    wanted = BY_NAME["uint64"]
    assert from_numbers([2**64 - 1, 0], wanted).tolist() == [2**64 - 1, 0]
    assert from_numbers([2**64 - 1, 0.5], wanted).dtype == np.float64
    assert from_numbers([-1, 2**63], wanted).dtype == np.float64
    assert from_numbers([1.5]).dtype == np.float64
