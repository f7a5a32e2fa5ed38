"""The outputs of a prediction as text, as JSON and as a file."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clients.answers import Prediction
from clients.tensors import STRING, Array, dtype_of


def as_text(prediction: Prediction) -> str:
    """What answered, then for each output its name, element type and shape over its values, long ones shortened."""
    version = "" if prediction.version is None else f" version {prediction.version}"
    lines = [f"{prediction.model}{version}, signature {prediction.signature}"]
    for name, array in prediction.outputs.items():
        shown = np.array2string(_readable(array), max_line_width=110, threshold=200, precision=6, suppress_small=True)
        lines += [f"{name}  {dtype_of(array).name} {array.shape}", shown]
    return "\n".join(lines)


def as_json(prediction: Prediction) -> str:
    """The prediction as one line of JSON, bytes that are not UTF-8 as `{"b64": ...}`, NaN and Infinity bare."""
    return json.dumps(
        {
            "model": prediction.model,
            "version": prediction.version,
            "signature": prediction.signature,
            "outputs": {name: _json_value(array) for name, array in prediction.outputs.items()},
        }
    )


def save(path: Path, outputs: Mapping[str, Array]) -> None:
    """Writes the arrays into the .npz file `path`, which appears whole or not at all.

    Strings become numpy's byte strings; bfloat16, which numpy can't read back alone, float32.

    Raises ValueError for strings that end in NUL bytes, which numpy's byte strings lose.
    """
    arrays = {name: _storable(name, array) for name, array in outputs.items()}
    handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.absolute().parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _storable(name: str, array: Array) -> Array:
    if dtype_of(array) is STRING:
        if any(value.endswith(b"\0") for value in array.flat):
            raise ValueError(f"output {name!r} has strings that end in NUL bytes, an .npz file can't hold them")
        return array.astype(np.bytes_)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _readable(array: Array) -> Array:
    """`array`, its strings as text."""
    if dtype_of(array) is not STRING:
        return array
    decode = np.vectorize(lambda value: value.decode("utf-8", "backslashreplace"), otypes=[object])
    return np.asarray(decode(array), np.object_)


def _json_value(array: Array) -> Any:
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], -1).tolist()
    return _text(array.tolist()) if dtype_of(array) is STRING else array.tolist()


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
