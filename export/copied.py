"""The files of a SavedModel that something else wrote, and their copies, byte for byte."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tfserving.export.errors import ExportError
from tfserving.foundation.evaluation import ROWS
from tfserving.foundation.golden import MANIFEST, RECORDS, SAVED_MODEL, WARMUP, versions_on_disk
from tfserving.foundation.manifest import DEEPEST_NAME, LONGEST_NAME

# What a SavedModel consists of: https://www.tensorflow.org/guide/saved_model, and what tf.keras keeps beside it.
PARTS = (SAVED_MODEL, "fingerprint.pb", "keras_metadata.pb", "variables", "assets", "assets.extra")
# What an export writes itself.
WRITTEN = (MANIFEST, RECORDS, ROWS, WARMUP)
# Each takes some 150 bytes of the manifest, which has room for 4 MiB.
MOST_FILES = 10_000


def files_of(folder: Path) -> list[str]:
    """The files of the SavedModel in `folder`, by their path in it, without those that an export writes itself.

    What is not part of a SavedModel is not among them. Raises ExportError when there is no SavedModel, and for links,
    devices and the like, which a copy could not be trusted with, and for more files than a manifest has room for.
    """
    if not (folder / SAVED_MODEL).is_file():
        raise ExportError(f"{folder / SAVED_MODEL}: there is no such file; {_instead(folder)}")
    found: list[str] = []
    for part in PARTS:
        if os.path.lexists(folder / part):
            found += _files(folder, part, 1)
        if len(found) > MOST_FILES:
            raise ExportError(f"{folder} has more than {MOST_FILES} files, which is no SavedModel that can be served")
    return sorted(set(found) - set(WRITTEN))


def left_out(folder: Path) -> list[str]:
    """What in `folder` is not part of a SavedModel."""
    return sorted(child.name for child in folder.iterdir() if child.name not in PARTS)


def copy_files(folder: Path, names: list[str], copy: Path) -> None:
    """Copies the files `names` of `folder` to the folder `copy`. Raises OSError when the disk refuses."""
    for name in names:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target, follow_symlinks=False)


def _files(folder: Path, name: str, depth: int) -> Iterator[str]:
    path = folder / name
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise ExportError(f"{path} is a link; give a copy that has the files themselves: cp -rL {folder} COPY")
    if stat.S_ISDIR(mode) and depth < DEEPEST_NAME:
        for child in path.iterdir():
            yield from _files(folder, f"{name}/{child.name}", depth + 1)
    elif not stat.S_ISREG(mode):
        raise ExportError(f"{path} is no ordinary file; a SavedModel has files and folders only")
    elif len(os.fsencode(name)) > LONGEST_NAME or not _is_text(name):
        raise ExportError(f"{str(path)!a}: its name is longer than {LONGEST_NAME} bytes, or no UTF-8")
    else:
        yield name


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _instead(folder: Path) -> str:
    """What may have been meant by a folder that is no SavedModel's."""
    if not folder.is_dir():
        return "the folder of a SavedModel is needed"
    if (folder / "saved_model.pbtxt").exists():
        return "saved_model.pbtxt is a SavedModel as text; load it and save it again with TensorFlow"
    if versions := sorted(versions_on_disk(folder)):
        return f"it has versions, give one of them: {folder / str(versions[-1])}"
    return "the folder of a SavedModel is needed"
