"""Checks of a version's folder: whether all its files can be read, and whether it has changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tfserving.foundation.manifest import MANIFEST, ManifestError, read_manifest_file
from tfserving.serving.embedded.errors import Code, RequestError

# More levels and files than TensorFlow ever writes.
DEEPEST, MOST_FILES = 8, 100_000
# Protocol buffers have no larger message: https://protobuf.dev/programming-guides/proto-limits/#total
LARGEST_GRAPH = 2**31 - 1
FOLDERS = ("variables", "assets", "assets.extra")
GRAPHS = ("saved_model.pb", "saved_model.pbtxt")

# For each file in a folder: its path, inode, size and modification time.
Contents = tuple[tuple[str | int, ...], ...]


def check_files(folder: Path) -> None:
    """Raises RequestError for files that TensorFlow would read without end, or until the memory is exhausted."""
    for number, (path, found) in enumerate(_read_by_tensorflow(folder)):
        if number >= MOST_FILES:
            raise _refusal(f"{folder} contains more than {MOST_FILES} files")
        if found is None or stat.S_ISDIR(found.st_mode):
            continue
        if not stat.S_ISREG(found.st_mode):
            raise _refusal(f"{path} is neither a file nor a folder")
        if path.name in GRAPHS and found.st_size > LARGEST_GRAPH:
            raise _refusal(f"{path} has {found.st_size} bytes; a SavedModel's graph has at most {LARGEST_GRAPH}")


def contents(folder: Path) -> Contents:
    """Returns the contents of `folder`, which are equal as long as nothing is written. Empty when it is gone."""
    listed: list[tuple[str | int, ...]] = []
    for path, found in _read_by_tensorflow(folder):
        if found is not None:
            listed.append((str(path), found.st_ino, found.st_size, found.st_mtime_ns))
        if len(listed) >= MOST_FILES:
            break
    return tuple(listed)


def manifest_digest(folder: Path) -> str:
    """Returns the digest of a version's manifest; empty when it has none, or one that was changed."""
    try:
        return read_manifest_file(folder / MANIFEST).digest()
    except ManifestError:
        return ""


Entry = tuple[Path, os.stat_result | None]


def _read_by_tensorflow(folder: Path) -> Iterator[Entry]:
    """Yields `folder` and what TensorFlow may read there; None for what doesn't exist, such as a broken link."""
    yield folder, _found(folder)
    for name in (*GRAPHS, "fingerprint.pb", *FOLDERS):
        path = folder / name
        yield path, _found(path)
        if name in FOLDERS:
            yield from _below(path, DEEPEST)


def _below(folder: Path, depth: int) -> Iterator[Entry]:
    for path in _listed(folder):
        found = _found(path)
        yield path, found
        if depth and found is not None and stat.S_ISDIR(found.st_mode) and not path.is_symlink():
            yield from _below(path, depth - 1)


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _refusal(text: str) -> RequestError:
    return RequestError(Code.FAILED_PRECONDITION, text)
