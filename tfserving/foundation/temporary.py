"""Temporary folders, and what a command says that has none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_folder(purpose: str, prefix: str = "tfserving-") -> Iterator[Path]:
    """A folder that is there as long as the context lasts. Raises OSError that says what for when there is none."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        raise no_temporary(purpose, error) from None
    with folder as name:
        yield Path(name)


def no_temporary(purpose: str, error: OSError) -> OSError:
    """The error in place of `error`, with which a temporary file or folder could not be made."""
    return OSError(
        error.errno,
        f"a temporary folder is needed for {purpose}, and none can be written to ({error.strerror}): set TMPDIR to one "
        "that can",
    )
