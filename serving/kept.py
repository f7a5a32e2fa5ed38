"""Reading files that the toolkit wrote for its own later commands, and refusing any that were changed or cut."""

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

# The largest file that the toolkit writes is below a tenth of this.
LARGEST_BYTES = 16 << 20
Kept = TypeVar("Kept")


class KeptError(Exception):
    """A file can't be read; the text is the reason, in one line."""


def read(path: Path) -> str:
    """Return the text of the file `path`. Raises FileNotFoundError, and KeptError for any other problem."""
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
    """Raise an error of writing the file `path` as an EngineError."""
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"{path} can't be written: {error.strerror or error}. Set XDG_STATE_HOME to a writable folder; the default "
            "is ~/.local/state"
        ) from None


def parsed(text: str, kind: type[Kept]) -> Kept:
    """Return the dataclass of the JSON `text`. Raises KeptError."""
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise KeptError(f"wrong value for {where}" if where else "it is not valid JSON, or is cut off") from None


def models_config(text: str) -> Any:
    """Return the ModelServerConfig of a text proto. Raises KeptError."""
    try:
        return text_format.Parse(text, ModelServerConfig())
    except (text_format.ParseError, RecursionError) as error:
        raise KeptError(f"it is not a ModelServerConfig: {error}") from None
