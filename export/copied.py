"""The files of a SavedModel that another program wrote, and their copies, byte for byte."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tfserving.export.errors import ExportError
from tfserving.foundation.evaluation import ROWS
from tfserving.foundation.golden import MANIFEST, RECORDS, SAVED_MODEL, WARMUP, versions_on_disk
from tfserving.foundation.manifest import DEEPEST_NAME, LONGEST_NAME, SIGNATURE

# The parts of a SavedModel (https://www.tensorflow.org/guide/saved_model), and the file that tf.keras adds.
PARTS = (SAVED_MODEL, "fingerprint.pb", "keras_metadata.pb", "variables", "assets", "assets.extra")
# The files that an export writes itself.
WRITTEN = (MANIFEST, RECORDS, ROWS, SIGNATURE, WARMUP)
# Each takes about 150 bytes of the manifest, which may have 4 MiB.
MOST_FILES = 10_000


def files_of(folder: Path) -> list[str]:
    """Return the paths of the files of the SavedModel in `folder`, without those that an export writes itself.

    Files that are not part of a SavedModel are left out. Raises ExportError when there is no SavedModel, for links and
    devices, which are not safe to copy, and for more files than a manifest can list.
    """
    if not (folder / SAVED_MODEL).is_file():
        raise ExportError(f"{folder} is not a SavedModel: {_instead(folder)}")
    found: list[str] = []
    for part in PARTS:
        if os.path.lexists(folder / part):
            found += _files(folder, part, 1)
        if len(found) > MOST_FILES:
            raise ExportError(f"{folder} has more than {MOST_FILES} files; a manifest can't list more")
    return sorted(set(found) - set(WRITTEN))


def left_out(folder: Path) -> list[str]:
    """Return the names in `folder` that are not part of a SavedModel."""
    return sorted(child.name for child in folder.iterdir() if child.name not in PARTS)


def copy_files(folder: Path, names: list[str], copy: Path) -> None:
    """Copy the files `names` of `folder` to the folder `copy`. Raises OSError when the disk refuses."""
    for name in names:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target, follow_symlinks=False)


def _files(folder: Path, name: str, depth: int) -> Iterator[str]:
    path = folder / name
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise ExportError(f"{path} is a link. Export a copy without links: cp -rL {folder} COPY")
    if stat.S_ISDIR(mode) and depth < DEEPEST_NAME:
        for child in path.iterdir():
            yield from _files(folder, f"{name}/{child.name}", depth + 1)
    elif not stat.S_ISREG(mode):
        raise ExportError(f"{path} is not a regular file; a SavedModel contains only files and folders")
    elif len(os.fsencode(name)) > LONGEST_NAME or not _is_text(name):
        raise ExportError(f"{str(path)!a}: its name is longer than {LONGEST_NAME} bytes or is not UTF-8")
    else:
        yield name


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _instead(folder: Path) -> str:
    """Return why a folder is not a SavedModel, and what may be meant."""
    if not folder.is_dir():
        return "there is no such folder"
    if (folder / "saved_model.pbtxt").exists():
        return "saved_model.pbtxt is in text format. Load it and save it again with TensorFlow."
    if versions := sorted(versions_on_disk(folder)):
        return f"it contains versions. Name one of them: {folder / str(versions[-1])}"
    return f"it has no file {SAVED_MODEL}"
