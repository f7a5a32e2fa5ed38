"""What the toolkit keeps for its own later commands, read back: half of it, or anything else, is never believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import text_format
from pydantic import TypeAdapter, ValidationError

from tfserving.foundation.files import read_text
from tfserving.foundation.messages import ModelServerConfig
from tfserving.serving.engines import EngineError

# No file that the toolkit keeps is a tenth as large.
LARGEST_BYTES = 16 << 20
Kept = TypeVar("Kept")


class KeptError(Exception):
    """What was kept can't be read; the text says why, in one line."""


def read(path: Path) -> str:
    """The text that is kept at `path`. Raises FileNotFoundError, and KeptError for whatever else is wrong."""
    try:
        return read_text(path, LARGEST_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeptError(error.strerror or str(error)) from None
    except ValueError as error:
        raise KeptError(str(error)) from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Writing what is kept at `path`: what the disk refuses becomes an EngineError."""
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"{path} can't be written: {error.strerror or error}; it is kept in $XDG_STATE_HOME, or in ~/.local/state "
            "where that isn't set"
        ) from None


def parsed(text: str, kind: type[Kept]) -> Kept:
    """The dataclass whose JSON `text` is. Raises KeptError."""
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise KeptError(f"{where}: {problem['msg']}" if where else str(problem["msg"])) from None


def models_config(text: str) -> Any:
    """The ModelServerConfig that `text` is. Raises KeptError."""
    try:
        return text_format.Parse(text, ModelServerConfig())
    except (text_format.ParseError, RecursionError) as error:
        raise KeptError(f"it is no ModelServerConfig: {error}") from None
