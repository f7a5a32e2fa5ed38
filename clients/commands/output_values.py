"""The outputs of a call as text, as JSON and as a file."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np

from clients.answers import Classification, Prediction, Regression
from clients.commands.calls import FAILED
from clients.files import written_whole
from clients.tensors import STRING, Array, dtype_of

Answer: TypeAlias = Classification | Prediction | Regression


def show(answer: Answer, outputs: Mapping[str, Array], *, output: Path | None, as_json: bool) -> None:
    """Writes `outputs`, what `answer` came to, into the file `output`, and shows them as JSON, or without a file.

    A file that can't be written ends the command.
    """
    try:
        if output is not None:
            save(output, outputs)
            click.echo(f"{output}: {', '.join(outputs)}", err=True)
    except (OSError, ValueError) as error:
        click.echo(f"Error: {output}: {error}", err=True)
        sys.exit(FAILED)
    if as_json:
        click.echo(_as_json(answer, outputs))
    elif output is None:
        click.echo(_as_text(answer, outputs))


def _as_text(answer: Answer, outputs: Mapping[str, Array]) -> str:
    """What answered, then for each output its name, element type and shape over its values, long ones shortened."""
    version = "" if answer.version is None else f" version {answer.version}"
    lines = [f"{answer.model}{version}, signature {answer.signature}"]
    for name, array in outputs.items():
        shown = np.array2string(_readable(array), max_line_width=110, threshold=200, precision=6, suppress_small=True)
        lines += [f"{name}  {dtype_of(array).name} {array.shape}", shown]
    return "\n".join(lines)


def _as_json(answer: Answer, outputs: Mapping[str, Array]) -> str:
    """The answer as one line of JSON, bytes that are not UTF-8 as `{"b64": ...}`, NaN and Infinity bare."""
    return json.dumps(
        {
            "model": answer.model,
            "version": answer.version,
            "signature": answer.signature,
            "outputs": {name: _json_value(array) for name, array in outputs.items()},
        }
    )


def save(path: Path, outputs: Mapping[str, Array]) -> None:
    """Writes the arrays into the .npz file `path`, which appears whole or not at all.

    Strings become numpy's byte strings; bfloat16, which numpy can't read back alone, float32.

    Raises ValueError for strings that end in NUL bytes, which numpy's byte strings lose.
    """
    arrays = {name: _storable(name, array) for name, array in outputs.items()}
    with written_whole(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _storable(name: str, array: Array) -> Array:
    if dtype_of(array) is STRING:
        array = _encoded(array)
        if any(value.endswith(b"\0") for value in array.flat):
            raise ValueError(f"output {name!r} has strings that end in NUL bytes, an .npz file can't hold them")
        return array.astype(np.bytes_)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _encoded(array: Array) -> Array:
    """`array`, its text as UTF-8."""
    encoded = np.empty(array.shape, np.object_)
    encoded.reshape(-1)[:] = [it.encode() if isinstance(it, str) else it for it in array.flat]
    return encoded


def _readable(array: Array) -> Array:
    """`array`, its strings as text."""
    if dtype_of(array) is not STRING:
        return array
    readable = np.empty(array.shape, np.object_)
    readable.reshape(-1)[:] = [
        it.decode("utf-8", "backslashreplace") if isinstance(it, bytes) else it for it in array.flat
    ]
    return readable


def _json_value(array: Array) -> Any:
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], -1).tolist()
    return _text(array.tolist()) if dtype_of(array) is STRING else array.tolist()


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
