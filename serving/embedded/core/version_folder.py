"""A version's folder: whether all in it can be read, and whether it has changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tfserving.serving.embedded.errors import Code, RequestError

# Deeper, and more, than TensorFlow ever writes.
DEEPEST, MOST_FILES = 8, 100_000
# Protocol buffers have no larger message: https://protobuf.dev/programming-guides/proto-limits/#total
LARGEST_GRAPH = 2**31 - 1
GRAPHS = ("saved_model.pb", "saved_model.pbtxt")

# The path of everything in a folder, its number on the disk, its size, and when it was written.
Contents = tuple[tuple[str | int, ...], ...]


def check_files(folder: Path) -> None:
    """Raises RequestError for what TensorFlow would read without end, or until no memory is left."""
    for number, (path, found) in enumerate(_walk(folder, DEEPEST)):
        if number >= MOST_FILES:
            raise _refusal(f"{folder} has more than {MOST_FILES} files")
        if found is None or stat.S_ISDIR(found.st_mode):
            continue
        if not stat.S_ISREG(found.st_mode):
            raise _refusal(f"{path} is neither a file nor a folder")
        if path.name in GRAPHS and found.st_size > LARGEST_GRAPH:
            raise _refusal(f"{path} has {found.st_size} bytes; a SavedModel's graph has at most {LARGEST_GRAPH}")


def contents(folder: Path) -> Contents:
    """What lies in `folder`; equal as long as nothing is written there. Empty when it is gone."""
    listed: list[tuple[str | int, ...]] = []
    for path, found in _walk(folder, DEEPEST):
        if found is not None:
            listed.append((str(path), found.st_ino, found.st_size, found.st_mtime_ns))
        if len(listed) >= MOST_FILES:
            break
    return tuple(listed)


def _walk(path: Path, depth: int) -> Iterator[tuple[Path, os.stat_result | None]]:
    """`path` and what is below it, wherever links lead, with None for what can't be found."""
    try:
        found = path.stat()
    except OSError:
        yield path, None
        return
    yield path, found
    if depth and stat.S_ISDIR(found.st_mode):
        try:
            below = sorted(path.iterdir())
        except OSError:
            return
        for one in below:
            yield from _walk(one, depth - 1)


def _refusal(text: str) -> RequestError:
    return RequestError(Code.FAILED_PRECONDITION, text)
