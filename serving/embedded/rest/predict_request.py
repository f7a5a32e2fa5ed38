"""Converts the JSON document of a REST predict request to arrays.

Row format is a list under `instances`, one element a row: plain values for a single input, else objects with every
input. Columnar format is one value under `inputs`, or an object of inputs by name.
https://www.tensorflow.org/tfx/serving/api_rest#predict_api
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.deep import NUMPYS_MOST, Deep
from tfserving.serving.embedded.core.signature import DEFAULT_SIGNATURE, TensorSpec
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.rest.json_tensor import expectation, is_base64, read_regular, read_tensor
from tfserving.serving.embedded.rest.json_text import show

Inputs = Mapping[str, TensorSpec]


def signature_name(document: Any) -> str:
    """Returns the signature of a request, or the default one. Raises RequestError for an invalid document."""
    if not isinstance(document, dict):
        raise _invalid(f"JSON Value: {show(document)} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, (str, bytes)):
        raise _invalid(
            f"JSON Value: {show(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    name = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    return name or DEFAULT_SIGNATURE


def read_inputs(document: dict[Any, Any], inputs: Inputs, most_nested: int = 0) -> tuple[dict[str, Array], bool]:
    """Returns the arrays of a request by input name, and whether it is in row format.

    A tensor, in row format that of each row, can be nested in `most_nested` arrays; 0 is no limit.
    Raises RequestError: INVALID_ARGUMENT, or UNIMPLEMENTED for an element type without a JSON format.
    """
    if "instances" in document and "inputs" in document:
        text = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        raise _invalid(f"JSON Value: {show(document)} {text}")
    if "instances" in document:
        return _rows(document, inputs, most_nested), True
    if "inputs" in document:
        return _columns(document["inputs"], inputs, most_nested), False
    raise _invalid("Missing 'inputs' or 'instances' key")


def complete_empty(arrays: Mapping[str, Array], inputs: Inputs) -> dict[str, Array]:
    """Returns `arrays`; empty ones get the remaining dimensions of their input.

    JSON lists can't express dimensions beyond the first empty list: a batch of no rows is `[]` for any shape.
    """
    return {name: _complete(array, inputs[name]) for name, array in arrays.items()}


def _complete(array: Array, spec: TensorSpec) -> Array:
    if array.size or spec.shape is None or array.ndim >= len(spec.shape):
        return array
    return array.reshape(*array.shape, *(max(0, size) for size in spec.shape[array.ndim :]))


def _columns(value: Any, inputs: Inputs, most_nested: int) -> dict[str, Array]:
    if not _is_named(value):
        _check_single(inputs, "inputs is a plain value/list, but expecting an object")
        return {name: read_tensor(name, value, spec, most_nested) for name, spec in inputs.items()}
    for name in inputs:
        if name not in value:
            raise _invalid(f"Missing named input: {name} in 'inputs' object.", _all_wanted(inputs))
    return {name: read_tensor(name, value[name], spec, most_nested) for name, spec in inputs.items()}


def _rows(document: dict[Any, Any], inputs: Inputs, most_nested: int) -> dict[str, Array]:
    rows = document["instances"]
    if not isinstance(rows, list):
        raise _invalid(f"JSON Value: {show(document)} Expecting 'instances' to be an list/array")
    if not rows:
        raise _invalid(f"JSON Value: {show(document)} No values in 'instances' array")
    named = _is_named(rows[0])
    if not named:
        _check_single(inputs, "instances is a plain list, but expecting list of objects")
    regular = _read_regular_rows(rows, inputs, named=named)
    return regular if regular is not None else _read_each_row(rows, inputs, most_nested, named=named)


def _read_regular_rows(rows: list[Any], inputs: Inputs, *, named: bool) -> dict[str, Array] | None:
    """Returns the rows as numpy converts them; None when they must be read one by one."""
    if not named:
        columns = dict.fromkeys(inputs, rows)
    elif all(isinstance(row, dict) and row.keys() == inputs.keys() for row in rows):
        columns = {name: [row[name] for row in rows] for name in inputs}
    else:
        return None
    arrays = {}
    for name, spec in inputs.items():
        array = read_regular(columns[name], spec.dtype)
        if array is None:
            return None
        arrays[name] = array
    return arrays


def _read_each_row(rows: list[Any], inputs: Inputs, most_nested: int, *, named: bool) -> dict[str, Array]:
    tensors: dict[str, list[Array]] = {name: [] for name in inputs}
    only = next(iter(inputs))
    for index, row in enumerate(rows):
        where = f"Failed to process element: {index}"
        if not named:
            if _is_named(row):
                raise _invalid(f"Expecting value/list but got object at item {index} of input list")
            _add_row(where, only, row, inputs, tensors, most_nested)
            continue
        if not isinstance(row, dict):
            raise _invalid(f"Expecting object but got list at item {index} of input list")
        for name, value in row.items():
            _add_row(f"{where} key: {name}", name, value, inputs, tensors, most_nested)
        if row.keys() != inputs.keys():
            text = f"JSON object: {show(row)} keys must be equal to: {','.join(sorted(inputs))}"
            raise _invalid(f"{where} of 'instances' list. {text}", _all_wanted(inputs))
    return {name: _stacked(arrays) for name, arrays in tensors.items()}


def _stacked(rows: list[Array]) -> Any:
    if rows[0].ndim < NUMPYS_MOST:
        return np.stack(rows)
    return Deep(np.concatenate([row.ravel() for row in rows]), (len(rows), *rows[0].shape))


def _add_row(
    where: str, name: Any, value: Any, inputs: Inputs, tensors: dict[str, list[Array]], most_nested: int
) -> None:
    try:
        if name not in inputs:
            raise _invalid(f"JSON object: does not have named input: {name}", _all_wanted(inputs))
        array = read_tensor(name, value, inputs[name], most_nested)
        first = tensors[name][0] if tensors[name] else array
        if array.size != first.size:
            raise _invalid(
                f"Expecting tensor size: {first.size} but got: {array.size}", expectation(name, inputs[name])
            )
        if array.shape != first.shape:
            text = f"Expecting shape {_shape(first)} but got: {_shape(array)}"
            raise _invalid(text, expectation(name, inputs[name]))
        tensors[name].append(array)
    except RequestError as error:
        text = f"{where} of 'instances' list. Error: {error.code.name}: {error.text}"
        raise _invalid(text, error.explanation) from None


def _check_single(inputs: Inputs, what: str) -> None:
    if len(inputs) > 1:
        raise _invalid(f"{what} as multiple input tensors required as per tensorinfo_map", _all_wanted(inputs))


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _shape(array: Array) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _all_wanted(inputs: Inputs) -> str:
    return "expected inputs: " + ", ".join(f"{name!r}: {spec}" for name, spec in inputs.items())


def _invalid(text: str, explanation: str = "") -> RequestError:
    return RequestError(Code.INVALID_ARGUMENT, text, explanation)
