"""Prints and saves the outputs of a call: as text, as JSON, or in a file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np

from tfserving.clients.commands.array_files import write_arrays
from tfserving.clients.limits import MOST_SHOWN
from tfserving.clients.printable import printable, shortened
from tfserving.clients.results import Classification, Prediction, Regression
from tfserving.foundation.command.errors import CommandError
from tfserving.foundation.files import written_whole
from tfserving.foundation.tensors import STRING, Array, dtype_of

Result: TypeAlias = Classification | Prediction | Regression

# The largest table: rows, and values of an output in each.
MOST_ROWS, MOST_COLUMNS = 50, 16
MOST_NAME = 200


def show(result: Result, outputs: Mapping[str, Array], *, output: Path | None, as_json: bool) -> None:
    """Write `outputs` of `result` to the file `output`, and print them as JSON, or without a file as text.

    Raises CommandError when the file can't be written.
    """
    try:
        if output is not None:
            save(output, outputs)
            click.echo(f"{output}: {', '.join(map(_name, outputs))}", err=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CommandError(f"{output} can't be written: {printable(str(reason))}") from None
    if as_json:
        click.echo(_as_json(result, outputs))
    elif output is None:
        click.echo(_as_text(result, outputs))


def _as_text(result: Result, outputs: Mapping[str, Array]) -> str:
    """Return the model, the outputs with their dtypes and shapes, and a table with a row for each row of the batch.

    Outputs without rows, or with long ones, are listed one after the other, shortened.
    """
    version = "" if result.version is None else f" version {result.version}"
    head = printable(f"{result.model}{version}, signature {result.signature}")
    kinds = {name: f"{_name(name)}  {dtype_of(array).name} {array.shape}" for name, array in outputs.items()}
    if _has_rows(outputs):
        return "\n".join([head, *kinds.values(), "", *_table(outputs)])
    values = [line for name, array in outputs.items() for line in (kinds[name], _shown(array))]
    return "\n".join([head, *values])


def _has_rows(outputs: Mapping[str, Array]) -> bool:
    sizes = {len(array) if array.ndim else 0 for array in outputs.values()}
    if len(sizes) != 1 or not 0 < min(sizes) <= MOST_ROWS:
        return False
    return all(prod(array.shape[1:]) <= MOST_COLUMNS for array in outputs.values())


def _table(outputs: Mapping[str, Array]) -> list[str]:
    from rich.text import Text

    from tfserving.clients.commands.tables import lines_of, new_table

    table = new_table(("row", *map(_name, outputs)))
    for number in range(len(next(iter(outputs.values())))):
        # A slice, since an element of an array of strings is not an array.
        rows = (array[number : number + 1].reshape(array.shape[1:]) for array in outputs.values())
        table.add_row(str(number), *(Text(_shown(row)) for row in rows))
    return lines_of(table)


def _shown(array: Array) -> str:
    if not array.ndim:
        return printable(str(_readable(array)[()]))
    return np.array2string(_readable(array), max_line_width=110, threshold=200, precision=6, suppress_small=True)


def _name(name: str) -> str:
    """Return the name of an output, which the server chose, as it is shown."""
    return printable(name, MOST_NAME)


def _as_json(result: Result, outputs: Mapping[str, Array]) -> str:
    """Return the result as one line of JSON: bytes that aren't UTF-8 as `{"b64": ...}`, bare NaN and Infinity."""
    return json.dumps(
        {
            "model": result.model,
            "version": result.version,
            "signature": result.signature,
            "outputs": {name: _json_value(array) for name, array in outputs.items()},
        }
    )


def save(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write the arrays to the .npz file `path`, which appears whole or not at all.

    Strings become numpy's byte strings. bfloat16, which numpy alone can't read, becomes float32.

    Raises ValueError for strings that end with NUL bytes, which numpy's byte strings lose.
    """
    arrays = {name: _storable(name, array) for name, array in outputs.items()}
    with written_whole(path) as file:
        write_arrays(file, arrays)


def _storable(name: str, array: Array) -> Array:
    if dtype_of(array) is STRING:
        array = _encoded(array)
        if any(value.endswith(b"\0") for value in array.flat):
            raise ValueError(f"output {name!r} has strings that end with NUL bytes, which an .npz file can't hold")
        return array.astype(np.bytes_)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _encoded(array: Array) -> Array:
    """Return `array` with text encoded as UTF-8."""
    encoded = np.empty(array.shape, np.object_)
    encoded.reshape(-1)[:] = [it.encode() if isinstance(it, str) else it for it in array.flat]
    return encoded


def _readable(array: Array) -> Array:
    """Return `array` with strings as text, shortened."""
    if dtype_of(array) is not STRING:
        return array
    readable = np.empty(array.shape, np.object_)
    readable.reshape(-1)[:] = [
        shortened(it.decode("utf-8", "backslashreplace") if isinstance(it, bytes) else str(it), MOST_SHOWN)
        for it in array.flat
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
