from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tfserving.clients.rest_json import MisfitError, outputs_of, parse, predict_request, unpack_bytes
from tfserving.clients.results import Signature, TensorInfo
from tfserving.foundation.tensors import Array


def one(dtype: str, *shape: int | None, name: str = "y") -> Signature:
    return Signature("", {}, {name: TensorInfo(dtype, shape)})


def request(array: Any) -> str:
    body = predict_request("s", {"x": np.asarray(array)})
    return body.decode().removeprefix('{"signature_name":"s","inputs":{"x":').removesuffix("}}")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([0.1, -0.0, 3e38], np.float32), "[0.1,-0.0,3e+38]"),
        (np.array([[1, 2], [3, 4]], np.int64), "[[1,2],[3,4]]"),
        (np.array([True]), "[true]"),
        (np.float32(0.5), "0.5"),
        (np.array(7, np.int32), "7"),
        (np.array([np.nan, np.inf, -np.inf, 0.5], np.float32), "[NaN, Infinity, -Infinity, 0.5]"),
        (np.float64("nan"), "NaN"),
        (np.array(["ü", b"\xff"], np.object_), '["ü",{"b64":"/w=="}]'),
        (np.array(b"a", np.object_), '{"b64":"YQ=="}'),
        (np.array([1.5], ml_dtypes.bfloat16), "[1.5]"),
        (np.arange(6, dtype=">i4").reshape(2, 3)[:, ::2], "[[0,2],[3,5]]"),
        (np.zeros((0, 3), np.float32), "[]"),
    ],
)
def test_arrays_are_written_as_the_server_reads_them(array: Any, text: str) -> None:
    assert request(array) == text


def test_complex_numbers_cannot_be_written() -> None:
    with pytest.raises(TypeError, match=r"inputs\['x'\] has dtype complex64; .*use gRPC"):
        predict_request("s", {"x": np.array([1j], np.complex64)})


def test_every_float_that_is_written_reads_back_the_same() -> None:
    bits = np.random.default_rng(5).integers(0, 2**32, 20_000, dtype=np.uint32)
    floats = bits.view(np.float32)
    floats = floats[np.isfinite(floats)]
    assert np.array(json.loads(request(floats)), np.float32).tobytes() == floats.tobytes()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (
            b'{\n    "outputs": [\n        NaN,\n        -Infinity\n    ]\n}',
            {"outputs": [pytest.approx(np.nan, nan_ok=True), -np.inf]},
        ),
        (b'{"outputs": [18446744073709551615]}', {"outputs": [2**64 - 1]}),
        (b'{"outputs": ["\xff"]}', {"outputs": ["\udcff"]}),
    ],
)
def test_answers_are_read_though_strict_json_has_no_such_values(body: bytes, value: Any) -> None:
    assert parse(body) == value


def test_a_page_is_no_answer() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        parse(b"<HTML>")


@pytest.mark.parametrize(
    ("value", "signature", "array"),
    [
        ([1.0, 2], one("float32", None), np.array([1, 2], np.float32)),
        ([1, 2], one("int8", None), np.array([1, 2], np.int8)),
        ([2**64 - 1, 0], one("uint64", None), np.array([2**64 - 1, 0], np.uint64)),
        (0.1, one("float32"), np.array(0.1, np.float32)),
        ([1.5], one("bfloat16", None), np.array([1.5], ml_dtypes.bfloat16)),
        ([], one("float32", None, 10), np.zeros((0, 10), np.float32)),
        ([], one("float32", None, None, 4), np.zeros((0, 0, 4), np.float32)),
        ([True, False], one("bool", None), np.array([True, False])),
        (["a", {"b64": "/w=="}, "\udcff"], one("string", None), np.array([b"a", b"\xff", b"\xff"], np.object_)),
        ([["a"], ["b"]], one("string", None, 1), np.array([[b"a"], [b"b"]], np.object_)),
        ("a", one("string"), np.array(b"a", np.object_)),
        ({"b64": "YQ=="}, one("string"), np.array(b"a", np.object_)),
    ],
)
def test_an_answer_takes_the_types_of_its_signature(value: Any, signature: Signature, array: Array) -> None:
    (answered,) = outputs_of({"outputs": value}, signature).values()
    assert answered.dtype == array.dtype
    assert answered.shape == array.shape
    np.testing.assert_array_equal(answered, array)


@pytest.mark.parametrize(
    ("answer", "signature", "said"),
    [
        ({"outputs": [1.5]}, one("int32", None), "got values of type float64"),
        ({"outputs": ["a"]}, one("float32", None), "got values of type"),
        ({"outputs": [None]}, one("float32", None), "got values of type object"),
        ({"outputs": [[1.0], [1.0, 2.0]]}, one("float32", None, None), "inhomogeneous"),
        ({"outputs": [1.0]}, one("string", None), "got 1.0, expected a string"),
        ({"outputs": [{"b64": "!"}]}, one("string", None), "'!' is not base64"),
        ({"outputs": [1.0]}, one("float32", None, 3), r"got shape \(1,\)"),
        ({"outputs": [1.0]}, one("resource"), "arrays can't hold resource"),
        (
            {"outputs": [1.0]},
            Signature("", {}, {"a": TensorInfo("float32", None), "b": TensorInfo("float32", None)}),
            "a value without a name",
        ),
        (
            {"outputs": {"a": 1.0}},
            Signature("", {}, {"a": TensorInfo("float32", None), "b": TensorInfo("float32", None)}),
            "got a, expected the outputs a, b",
        ),
        ({"predictions": []}, one("float32"), "it lacks 'outputs'"),
        ([], one("float32"), "it lacks 'outputs'"),
    ],
)
def test_an_answer_of_another_signature_is_noticed(answer: Any, signature: Signature, said: str) -> None:
    with pytest.raises(MisfitError, match=said):
        outputs_of(answer, signature)


def test_only_an_object_with_b64_alone_is_bytes() -> None:
    assert unpack_bytes([{"b64": "YQ=="}, {"b64": 1}, {"b64": "YQ==", "x": 1}]) == [
        b"a",
        {"b64": 1},
        {"b64": "YQ==", "x": 1},
    ]
