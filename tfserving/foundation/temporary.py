"""Temporary folders, and the error when none can be made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_folder(purpose: str, prefix: str = "tfserving-") -> Iterator[Path]:
    """Make a folder that exists as long as the context. Raises OSError that names the purpose when that fails."""
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
        f"no temporary folder for {purpose} can be written ({error.strerror}). Set TMPDIR to one that can",
    )
