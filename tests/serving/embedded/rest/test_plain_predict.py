from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserving.foundation.tensors import BY_NAME, Array
from tfserving.serving.embedded.core.signature import TensorSpec
from tfserving.serving.embedded.errors import RequestError
from tfserving.serving.embedded.rest import plain_predict
from tfserving.serving.embedded.rest.json_parser import parse
from tfserving.serving.embedded.rest.plain_predict import read_plain
from tfserving.serving.embedded.rest.predict_request import read_inputs, signature_name

NUMERIC = [dtype for dtype in BY_NAME.values() if dtype.numpy.kind in "fiu"]


def plainly(body: bytes, dtype: str = "float32") -> Array | None:
    plain = read_plain(body)
    return plain.read(BY_NAME[dtype]) if plain else None


def thoroughly(body: bytes, dtype: str) -> tuple[str, bool, Array]:
    document = parse(body)
    arrays, in_rows = read_inputs(document, {"x": TensorSpec("x:0", BY_NAME[dtype], None)})
    return signature_name(document), in_rows, arrays["x"]


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 1), (2, 3), (3, 1, 2), (2, 2, 2, 2), (1, 7, 1, 5, 1)])
def test_lists_of_any_regular_shape_are_read_at_once(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)

    array = plainly(json.dumps({"instances": values.tolist()}, indent=1).encode())

    assert array is not None
    np.testing.assert_array_equal(array, values)
    assert array.dtype == np.float32


@pytest.mark.parametrize("key", ["instances", "inputs"])
@pytest.mark.parametrize(
    ("form", "signature"),
    [
        ('{"KEY":[1,2]}', "serving_default"),
        ('{"signature_name":"","KEY":[1,2]}', "serving_default"),
        (' { "signature_name" : "other" , "KEY" : [ 1 , 2 ] } ', "other"),
        ('{"KEY":[1,2],"signature_name":"größer"}\n', "größer"),
    ],
)
def test_the_signature_and_the_format_are_found(key: str, form: str, signature: str) -> None:
    plain = read_plain(form.replace("KEY", key).encode())

    assert plain is not None
    assert (plain.signature, plain.in_rows) == (signature, key == "instances")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"instances":[]}',
        b'{"instances":[[]]}',
        b'{"instances":[[],[1]]}',
        b'{"instances":[[1],[1,2]]}',
        b'{"instances":[1,[2]]}',
        b'{"instances":[[[1]],[2]]}',
        b'{"instances":[1,]}',
        b'{"instances":[1 2]}',
        b'{"instances":[1]]}',
        b'{"instances":[[1]}',
        b'{"instances":[1][2]}',
        b'{"instances":[NaN]}',
        b'{"instances":[true]}',
        b'{"instances":["1"]}',
        b'{"instances":[{"b64":"YQ=="}]}',
        b'{"instances":[01]}',
        b'{"instances":[1.]}',
        b'{"instances":[1e400]}',
        b'{"instances":[9007199254740993]}',
        b'{"instances":[1]} and more',
        b'{"instances":[1],"instances":[2]}',
        b'{"inputs":[1],"instances":[2]}',
        b'{"signature_name":"a","instances":[1],"signature_name":"b"}',
        b'{"signature_name":"\\u0061","instances":[1]}',
        b'{"signature_name":"\xff","instances":[1]}',
        b'{"signature_name":"a]b","instances":[1],"more":"]"}',
        b'{"other":1,"instances":[1]}',
        b'{"instances":' + b"[" * 40 + b"1" + b"]" * 40 + b"}",
    ],
)
def test_whatever_is_not_plain_is_left_to_the_others(body: bytes) -> None:
    assert plainly(body) is None


@pytest.mark.parametrize("dtype", ["string", "bool", "complex64"])
def test_what_is_no_number_is_left_to_the_others(dtype: str) -> None:
    assert plainly(b'{"instances":[1,0]}', dtype) is None


numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-300, 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["-0", "-0.0", "1e5", "1E-5", "0.1e+2", "1e39", "1e-46", "4.9e-324", "1.7976931348623157e308"]),
)
lists = st.recursive(numbers, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@st.composite
def regular(draw: st.DrawFn) -> Any:
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    values = draw(st.lists(numbers, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    return np.array(values, object).reshape(shape).tolist()


@settings(max_examples=400, deadline=None)
@given(
    value=st.one_of(regular(), st.lists(lists)),
    dtype=st.sampled_from(NUMERIC),
    key=st.sampled_from(["instances", "inputs"]),
)
def test_what_is_read_at_once_is_what_is_read_one_by_one(value: Any, dtype: Any, key: str) -> None:
    text = json.dumps({key: value})
    for literal in ("-0", "-0.0", "1e5", "1E-5", "0.1e+2", "1e39", "1e-46", "4.9e-324", "1.7976931348623157e308"):
        text = text.replace(f'"{literal}"', literal)
    body = text.encode()
    array = plainly(body, dtype.name)
    if array is None:
        return

    try:
        _, in_rows, wanted = thoroughly(body, dtype.name)
    except RequestError as error:
        raise AssertionError(f"{body!r} is {array} at once, and one by one {error}") from None

    assert in_rows == (key == "instances")
    assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(array, wanted)
    if array.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(array), np.signbit(wanted))


@pytest.mark.parametrize("part", [1, 2, 3, 10])
@pytest.mark.parametrize(
    "text",
    [
        *("[1,2,3]", "[[1,2],[3,4]]", "[[[1.5]],[[2]]]", "[[[1,2,3]]]", "[[1],[2],[3],[4]]", " [ 1 , 2 ] "),
        *("[1[,2],[3,4]]", "[[1,2][,3,4]]", "[[1,2],[3,4]", "[[1,2],[3,4]]]", "[1,,2]", "[1,2,]", "[,1]", "[1 2]"),
        *("[[1],2]", "[1,[2]]", "[[],[1]]", "[1,9e999]", "[9007199254740993]", "[--1,2]", "[1,2.5.5]", "]1,2["),
    ],
)
def test_a_large_request_is_read_in_parts_as_a_small_one_is_at_once(
    text: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f'{{"instances":{text}}}'.encode()
    for dtype in ("float32", "int64"):
        at_once = plainly(body, dtype)
        with monkeypatch.context() as patch:
            patch.setattr(plain_predict, "_PART", part)
            in_parts = plainly(body, dtype)
        if at_once is None:
            assert in_parts is None
        else:
            assert in_parts is not None
            np.testing.assert_array_equal(in_parts, at_once)
            assert in_parts.dtype == at_once.dtype


@pytest.mark.parametrize("shape", [(1, 1, 3, 1), (1, 2, 1, 1, 2, 1), (1, 1, 1), (2, 1, 1, 2)])
def test_lists_of_one_list_are_read_at_once(shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    array = plainly(json.dumps({"instances": values.tolist()}).encode())
    assert array is not None
    np.testing.assert_array_equal(array, values)
