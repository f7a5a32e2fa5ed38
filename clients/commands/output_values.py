"""The outputs of a call as text, as JSON and as a file."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np

from tfserving.clients.commands.array_files import write_arrays
from tfserving.clients.commands.calls import FAILED
from tfserving.clients.limits import MOST_SHOWN
from tfserving.clients.printable import printable, shortened
from tfserving.clients.results import Classification, Prediction, Regression
from tfserving.foundation.files import written_whole
from tfserving.foundation.tensors import STRING, Array, dtype_of

Answer: TypeAlias = Classification | Prediction | Regression

# What is shown as a table: so many rows, with so many values of an output in each.
MOST_ROWS, MOST_COLUMNS = 50, 16
MOST_NAME = 200


def show(answer: Answer, outputs: Mapping[str, Array], *, output: Path | None, as_json: bool) -> None:
    """Writes `outputs`, what `answer` came to, into the file `output`, and shows them as JSON, or without a file.

    A file that can't be written ends the command.
    """
    try:
        if output is not None:
            save(output, outputs)
            click.echo(f"{output}: {', '.join(map(_name, outputs))}", err=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        click.echo(f"Error: {output}: {printable(str(reason))}", err=True)
        sys.exit(FAILED)
    if as_json:
        click.echo(_as_json(answer, outputs))
    elif output is None:
        click.echo(_as_text(answer, outputs))


def _as_text(answer: Answer, outputs: Mapping[str, Array]) -> str:
    """What answered, each output's name, element type and shape, and the values: a row for each of the batch.

    Where the outputs don't go by rows, or these are long, each output's values by themselves, shortened.
    """
    version = "" if answer.version is None else f" version {answer.version}"
    head = printable(f"{answer.model}{version}, signature {answer.signature}")
    kinds = {name: f"{_name(name)}  {dtype_of(array).name} {array.shape}" for name, array in outputs.items()}
    if _goes_by_rows(outputs):
        return "\n".join([head, *kinds.values(), "", *_table(outputs)])
    values = [line for name, array in outputs.items() for line in (kinds[name], _shown(array))]
    return "\n".join([head, *values])


def _goes_by_rows(outputs: Mapping[str, Array]) -> bool:
    sizes = {len(array) if array.ndim else 0 for array in outputs.values()}
    if len(sizes) != 1 or not 0 < min(sizes) <= MOST_ROWS:
        return False
    return all(prod(array.shape[1:]) <= MOST_COLUMNS for array in outputs.values())


def _table(outputs: Mapping[str, Array]) -> list[str]:
    from rich.text import Text

    from tfserving.clients.commands.tables import lines_of, new_table

    table = new_table(("row", *map(_name, outputs)))
    for number in range(len(next(iter(outputs.values())))):
        # A slice, not an element: of an array of strings that would be no array.
        rows = (array[number : number + 1].reshape(array.shape[1:]) for array in outputs.values())
        table.add_row(str(number), *(Text(_shown(row)) for row in rows))
    return lines_of(table)


def _shown(array: Array) -> str:
    if not array.ndim:
        return printable(str(_readable(array)[()]))
    return np.array2string(_readable(array), max_line_width=110, threshold=200, precision=6, suppress_small=True)


def _name(name: str) -> str:
    """The name of an output as it is shown: the server's choice."""
    return printable(name, MOST_NAME)


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
        write_arrays(file, arrays)


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
    """`array`, its strings as text, of which the beginning is enough."""
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
