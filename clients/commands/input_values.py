"""The inputs of a request on the command line: JSON, or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from tfserving.clients.commands import images
from tfserving.clients.commands.array_files import read_array, read_arrays
from tfserving.clients.printable import shortened
from tfserving.clients.rest_json import parse_request, unpack_bytes
from tfserving.foundation.given import STDIN, given_bytes

SUFFIXES = (".json", ".npy", ".npz", *images.SUFFIXES)
# How much an error quotes of a value on the command line.
_QUOTED = 200


class InputError(Exception):
    """An input on the command line can't be used; the text names it and the reason."""


@dataclass(frozen=True)
class GivenInputs:
    """Inputs by name, or one value for the only input of the signature."""

    inputs: Any
    signature: str | None = None


def read_inputs(given: Sequence[str]) -> GivenInputs:
    """Return the inputs in the values of `--input`.

    A value is JSON, the name of a `.json`, `.npy`, `.npz` or image file, or `-` for JSON on standard input. `name=` in
    front is the name of the input. JSON that is the body of a request (`{"inputs": ...}`, `{"instances": [...]}`) is
    read as such.

    Raises InputError.
    """
    named: dict[str, Any] = {}
    signature = None
    for value in given:
        name, rest = _split(value)
        read = _read(rest)
        if name is None and isinstance(read, dict):
            body = body_of(read)
            signature = body.signature or signature
            read = body.inputs
        if name is None and not isinstance(read, dict):
            if len(given) > 1:
                raise InputError(f"{value!r} has no name; with several --input, write each as NAME=VALUE")
            return GivenInputs(read, signature)
        if name is not None and isinstance(read, dict):
            raise InputError(f"{value!r} contains inputs with names ({', '.join(read)}); write it without {name}=")
        for key, array in read.items() if name is None else [(name, read)]:
            if key in named:
                raise InputError(f"input {key!r} is given twice")
            named[key] = array
    return GivenInputs(named, signature)


def _split(value: str) -> tuple[str | None, str]:
    """Return the name in front of `=`, if there is one, and the rest."""
    name, equals, rest = value.partition("=")
    if not equals or _looks_like_json(value) or _is_file(value) or not name.strip():
        return None, value
    return name.strip(), rest


def _is_file(value: str) -> bool:
    try:
        return Path(value).is_file()
    except (OSError, ValueError):
        # JSON can be too long for a file's name, or contain NUL.
        return False


def _looks_like_json(value: str) -> bool:
    start = value.lstrip()[:2]
    return start[:1] in ("[", "{", '"') or start[:1].isdigit() or (start[:1] == "-" and start[1:].isdigit())


def _read(value: str) -> Any:
    """Return the JSON value, array, or arrays by name that `value` names; `{"b64": ...}` in it becomes bytes."""
    if value == "-":
        return _read_json(value)
    path = Path(value)
    if _is_file(value):
        return _read_file(path)
    if path.suffix in SUFFIXES and not _looks_like_json(value):
        raise InputError(f"the file {value} doesn't exist")
    if _looks_like_json(value) or value in ("true", "false", "NaN", "Infinity", "-Infinity"):
        return _parse(value, repr(value))
    raise InputError(f"{value!r} is neither JSON nor a file; write a string in quotes, '\"{value}\"'")


def _read_file(path: Path) -> Any:
    try:
        if path.suffix == ".json":
            return _read_json(path)
        if path.suffix == ".npy":
            return read_array(path)
        if path.suffix == ".npz":
            return read_arrays(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path} can't be read as {path.suffix}: {error}") from None
    if path.suffix.lower() in images.SUFFIXES:
        return images.ImageFile(path)
    raise InputError(f"{path} is not a file of inputs; its name must end with {', '.join(SUFFIXES)}")


def _read_json(source: str | Path) -> Any:
    """Return the JSON in a file, or on standard input for `-`."""
    try:
        text = given_bytes(source)
    except OSError as error:
        raise InputError(str(error)) from None
    return _parse(text, "standard input" if str(source) == STDIN else str(source))


def _parse(text: str | bytes, where: str) -> Any:
    try:
        return unpack(parse_request(text))
    except UnicodeDecodeError as error:
        raise InputError(f"{shortened(where, _QUOTED)} is not UTF-8: {error.reason}, byte {error.start}") from None
    except ValueError as error:
        text = f" is not JSON: {error}" if isinstance(error, JSONDecodeError) else f": {error}"
        raise InputError(shortened(where, _QUOTED) + text) from None
    except RecursionError:
        raise InputError(f"{shortened(where, _QUOTED)} is JSON that is nested too deeply") from None


def unpack(value: Any) -> Any:
    """Return `value` with the `{"b64": ...}` in it decoded, also inside a body or a dict of names.

    Raises ValueError for text that is not base64.
    """
    value = unpack_bytes(value)
    if isinstance(value, dict):
        return {key: unpack(item) for key, item in value.items()}
    if isinstance(value, list):
        return [unpack(item) if isinstance(item, dict) else item for item in value]
    return value


def body_of(read: dict[str, Any]) -> GivenInputs:
    """Return the inputs in the body of a REST request. Any other dict contains inputs by name."""
    signature = read.get("signature_name")
    keys = set(read) - {"signature_name"}
    if keys == {"inputs"}:
        return GivenInputs(read["inputs"], signature)
    if keys == {"instances"} and isinstance(read["instances"], list):
        return GivenInputs(_columns(read["instances"]), signature)
    return GivenInputs(read)


def _columns(rows: list[Any]) -> Any:
    """Return rows as columns: the list of all rows' values, by name when the rows have names."""
    if not rows or not isinstance(rows[0], dict):
        return rows
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != set(rows[0]):
            has = ", ".join(row) if isinstance(row, dict) else f"the value {row!r}"
            raise InputError(f"instances[{number}] has {has}, expected {', '.join(rows[0])} as in instances[0]")
    return {name: [row[name] for row in rows] for name in rows[0]}
