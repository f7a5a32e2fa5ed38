from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tfserving.foundation.tensors import BY_NAME
from tfserving.serving.embedded.core.signature import TensorSpec
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.rest.predict_request import complete_empty, read_inputs, signature_name


def spec(dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(tensor="t:0", dtype=BY_NAME[dtype], shape=shape or None)


ONE = {"x": spec("float32", -1)}
TWO = {"a": spec("float32", -1), "m": spec("int64", -1, 2)}


def read(document: Any, inputs: dict[str, TensorSpec]) -> dict[str, Any]:
    arrays, _ = read_inputs(document, inputs)
    return {name: array.tolist() for name, array in arrays.items()}


def refused(document: Any, inputs: dict[str, TensorSpec], most_nested: int = 0) -> RequestError:
    with pytest.raises(RequestError) as failure:
        read_inputs(document, inputs, most_nested)
    return failure.value


def test_rows_of_one_input_are_plain_or_named() -> None:
    assert read({"instances": [1, 2.5]}, ONE) == {"x": [1.0, 2.5]}
    assert read({"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}, ONE) == {"x": [[1.0, 2.0], [3.0, 4.0]]}
    assert read_inputs({"instances": [1]}, ONE)[1] is True


def test_rows_of_several_inputs_name_them() -> None:
    rows = [{"a": 1, "m": [1, 2]}, {"m": [3, 4], "a": 2}]

    assert read({"instances": rows}, TWO) == {"a": [1.0, 2.0], "m": [[1, 2], [3, 4]]}


def test_columns_are_plain_or_named_and_may_have_more_than_is_asked() -> None:
    assert read({"inputs": 3}, ONE) == {"x": 3.0}
    assert read({"inputs": {"x": [[1], [2]]}}, ONE) == {"x": [[1.0], [2.0]]}
    assert read({"inputs": {"a": [1], "m": [[1, 2]], "z": "?"}}, TWO) == {"a": [1.0], "m": [[1, 2]]}
    assert read_inputs({"inputs": [1]}, ONE)[1] is False


@pytest.mark.parametrize(
    ("dtype", "value", "array"),
    [
        ("float32", [1, 1e39, -1e39], [1.0, np.inf, -np.inf]),
        ("float32", [1e-40, -1e-40], [0.0, -0.0]),
        ("float64", [2**63, 1], [2.0**63, 1.0]),
        ("float64", [[], []], [[], []]),
        ("int8", [128, -129, 70000], [-128, 127, 112]),
        ("uint8", [256, -1], [0, 255]),
        ("uint32", [2**32 - 1], [2**32 - 1]),
        ("int64", [2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
        ("uint64", [2**64 - 1, 0], [2**64 - 1, 0]),
        ("int32", [[[]]], [[[]]]),
        ("bool", [True, False], [True, False]),
        ("bool", True, True),
        ("string", ["é", b"\xff", {"b64": "YQ"}, {"b64": " Y Q = = "}], ["é".encode(), b"\xff", b"a", b"a"]),
        ("string", {"b64": "YQ=="}, b"a"),
    ],
)
def test_what_an_element_type_takes(dtype: str, value: Any, array: Any) -> None:
    arrays, _ = read_inputs({"inputs": value}, {"x": spec(dtype)})

    assert arrays["x"].dtype == BY_NAME[dtype].numpy
    assert arrays["x"].tolist() == array


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        ("float32", [1, None], "JSON Value: null Type: Null is not of expected type: float"),
        ("float32", [1, "2"], 'JSON Value: "2" Type: String is not of expected type: float'),
        ("float32", [1, True], "JSON Value: true Type: True is not of expected type: float"),
        ("float64", [[True, 1]], "JSON Value: true Type: True is not of expected type: double"),
        ("float32", {"b64": "YQ=="}, "Type: Object is not of expected type: float"),
        ("int32", [1.0], "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ("int32", [2**31], "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ("uint32", [-1], "JSON Value: -1 Type: Number is not of expected type: uint32"),
        ("int64", [2**63], "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64"),
        ("bool", [1], "JSON Value: 1 Type: Number is not of expected type: bool"),
        ("bool", [True, 0], "JSON Value: 0 Type: Number is not of expected type: bool"),
        ("string", [1], "JSON Value: 1 Type: Number is not of expected type: string"),
        ("string", [{"b64": "YQ="}], "Unable to base64 decode"),
        ("string", [{"b64": "AP_-"}], "Unable to base64 decode"),
        ("string", [{"b64": "YQ==", "x": 1}], "not formatted correctly for base64 data"),
        ("float32", [[1, 2], [3]], "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ("float32", [1, [2]], "Encountered list at unexpected level: 1 expected < 1"),
        ("float32", [[1], 2], "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
    ],
)
def test_what_an_element_type_refuses(dtype: str, value: Any, text: str) -> None:
    error = refused({"inputs": value}, {"x": spec(dtype, -1)})

    assert error.code is Code.INVALID_ARGUMENT
    assert error.text.endswith(text)


def test_a_type_that_json_has_no_values_for_is_not_implemented() -> None:
    assert refused({"inputs": [1]}, {"x": spec("float16")}).code is Code.UNIMPLEMENTED
    error = refused({"instances": [1]}, {"x": spec("float16")})
    assert error.code is Code.INVALID_ARGUMENT
    assert error.text == (
        "Failed to process element: 0 of 'instances' list. "
        "Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half"
    )


@pytest.mark.parametrize(
    ("instances", "text"),
    [
        ([1, [2]], "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
         "Expecting shape [] but got: [1]"),
        ([[1], [2, 3]], "Error: INVALID_ARGUMENT: Expecting tensor size: 1 but got: 2"),
        ([[[1, 2]], [[1], [2]]], "Error: INVALID_ARGUMENT: Expecting shape [1,2] but got: [2,1]"),
        ([1, {"x": 2}], "Expecting value/list but got object at item 1 of input list"),
        ([{"x": 1}, 2], "Expecting object but got list at item 1 of input list"),
        ([{"x": 1}, {"y": 2}], "Failed to process element: 1 key: y of 'instances' list. Error: INVALID_ARGUMENT: "
         "JSON object: does not have named input: y"),
        ([{}], "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: x"),
        ([], "No values in 'instances' array"),
        ({}, "Expecting 'instances' to be an list/array"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_together(instances: Any, text: str) -> None:
    error = refused({"instances": instances}, ONE)

    assert error.code is Code.INVALID_ARGUMENT
    assert error.text.endswith(text)


def test_an_error_says_what_the_input_has_to_be() -> None:
    assert refused({"inputs": ["1"]}, ONE).explanation == "expected float32 (?,) for inputs['x']"
    assert refused({"inputs": {"a": 1}}, TWO).explanation == "expected inputs: 'a': float32 (?,), 'm': int64 (?, 2)"


@pytest.mark.parametrize("key", ["inputs", "instances"])
def test_a_very_deep_value_is_read_whole(key: str) -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]

    arrays, _ = read_inputs({key: value}, ONE)
    assert arrays["x"].shape == (1,) * 5000
    assert arrays["x"].ravel().tolist() == [1.0]


@pytest.mark.parametrize("dtype", ["float32", "string"])
def test_a_tensor_in_more_arrays_than_are_allowed_is_refused(dtype: str) -> None:
    inputs = {"x": spec(dtype)}

    def nested(depth: int) -> Any:
        return json.loads("[" * depth + ('"a"' if dtype == "string" else "1") + "]" * depth)

    for document in ({"inputs": nested(256)}, {"instances": [nested(256)]}, {"instances": [{"x": nested(256)}]}):
        assert read_inputs(document, inputs, 256)[0]["x"].size == 1
    for document in ({"inputs": nested(257)}, {"inputs": {"x": nested(257)}}):
        error = refused(document, inputs, 256)
        assert error.text == "inputs['x'] is nested in 257 arrays; at most 256 are allowed"
        assert error.code is Code.INVALID_ARGUMENT
        assert read_inputs(document, inputs)[0]["x"].ndim == 257
    for row in (nested(257), {"x": nested(257)}):
        # Each row is a tensor of its own, so that the list of rows doesn't count.
        assert refused({"instances": [row]}, inputs, 256).text.endswith(error.text)
        assert read_inputs({"instances": [row]}, inputs)[0]["x"].ndim == 258


def test_arrays_that_are_no_tensor_may_be_nested_more() -> None:
    deep = json.loads("[" * 500 + "]" * 500)
    assert read_inputs({"inputs": {"x": [1.0], "y": deep}, "z": deep}, ONE, 256)[0]["x"].tolist() == [1.0]


def test_one_of_the_two_formats_has_to_be_there() -> None:
    assert refused({}, ONE).text == "Missing 'inputs' or 'instances' key"
    assert "expecting only one of 'inputs' or 'instances'" in refused({"inputs": 1, "instances": [1]}, ONE).text


def test_the_signature_is_the_default_one_or_named() -> None:
    assert signature_name({}) == "serving_default"
    assert signature_name({"signature_name": ""}) == "serving_default"
    assert signature_name({"signature_name": "other"}) == "other"


@pytest.mark.parametrize("document", [None, 1, [1], {"signature_name": None}, {"signature_name": 1}])
def test_what_is_no_request(document: Any) -> None:
    with pytest.raises(RequestError, match="JSON Value: "):
        signature_name(document)


@pytest.mark.parametrize(
    ("shape", "known", "wanted"),
    [
        ((0,), (-1, 2), (0, 2)),
        ((0,), (-1, -1, 3), (0, 0, 3)),
        ((3, 0), (-1, -1, 5), (3, 0, 5)),
        ((0,), (-1,), (0,)),
        ((0, 2), (-1, 2), (0, 2)),
        ((0,), None, (0,)),
        ((1,), (-1, 2), (1,)),
    ],
)
def test_a_batch_without_rows_has_the_dimensions_that_json_can_not_say(
    shape: tuple[int, ...], known: tuple[int, ...] | None, wanted: tuple[int, ...]
) -> None:
    spec = TensorSpec("x:0", BY_NAME["float32"], known)
    assert complete_empty({"x": np.zeros(shape, np.float32)}, {"x": spec})["x"].shape == wanted
