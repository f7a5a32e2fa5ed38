"""What a version consists of: the files that its manifest lists, the manifest, and a signature.

`differences` judges a list of files, wherever it is from: a folder, an object store, a registry. `judge` judges a
folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from tfserving.foundation.manifest import (
    LARGEST_BYTES,
    MANIFEST,
    SIGNATURE,
    Manifest,
    ManifestError,
    read_manifest_file,
)

# The files of a version that its manifest doesn't list, with the largest size of each in bytes. A signature lists each
# file, as the manifest does.
BESIDE = {MANIFEST: LARGEST_BYTES, SIGNATURE: 8 << 20}
_CHUNK = 1 << 20
# The number of differences that an error lists.
_SOME = 20


class VersionError(Exception):
    """A version isn't what its manifest lists. The text has a line for each difference."""


def differences(manifest: Manifest, sizes: Mapping[str, int], sha256: Callable[[str], str]) -> list[str]:
    """Return how files differ from those that `manifest` lists, a sentence for each difference.

    `sizes` has the bytes of every file that is there, by its path in the version, and `sha256` returns the SHA-256 of
    one. It is called only for files of the right size. No other file may be there but the manifest and a signature.
    Raises ManifestError for an invalid manifest.
    """
    listed = manifest.files()
    problems = [f"{_shown(name)} is missing" for name in sorted(listed.keys() - sizes.keys())]
    for name, size in sorted(sizes.items()):
        if name in BESIDE:
            if size > BESIDE[name]:
                problems.append(f"{name}: got {size} bytes, expected at most {BESIDE[name]}")
        elif name not in listed:
            problems.append(f"{_shown(name)} is not in the manifest")
        elif size != listed[name].size:
            problems.append(f"{_shown(name)}: got {size} bytes, expected {listed[name].size}")
        elif (found := sha256(name)) != listed[name].sha256:
            problems.append(f"{_shown(name)}: got SHA-256 {found}, expected {listed[name].sha256}")
    return problems


def judge(folder: Path) -> Manifest:
    """Return the manifest of the version in `folder`, after comparing all that is there with it.

    Raises VersionError when a file is missing, added or changed, when something is no file (a link, a pipe), or when
    the manifest is none or was changed.
    """
    try:
        manifest = read_manifest_file(folder / MANIFEST)
        manifest.digest()
        problems = differences(manifest, sizes_of(folder), lambda name: sha256_of(folder / name))
    except ManifestError as error:
        raise VersionError(f"{folder} has no valid manifest: {error}") from None
    except OSError as error:
        raise VersionError(f"{error.filename or folder} can't be read: {error.strerror}") from None
    if problems:
        raise changed(folder, problems)
    return manifest


def changed(folder: Path, problems: list[str]) -> VersionError:
    """Return the error of a version in `folder` that differs from its manifest in `problems`."""
    more = [f"and {len(problems) - _SOME} more"] if len(problems) > _SOME else []
    return VersionError("\n  ".join([f"{folder} was changed since its export:", *problems[:_SOME], *more]))


def sizes_of(folder: Path) -> dict[str, int]:
    """Return the size in bytes of every file below `folder`, by relative path.

    Links are not followed. Raises VersionError for anything that is neither a file nor a folder, and OSError.
    """
    found: dict[str, int] = {}
    below = [folder]
    while below:
        with os.scandir(below.pop()) as entries:
            for entry in entries:
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    below.append(Path(entry.path))
                elif stat.S_ISREG(mode):
                    name = Path(entry.path).relative_to(folder).as_posix()
                    found[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    kind = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                    raise VersionError(f"{_shown(entry.path)} is {kind}: a version has files only")
    return found


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as lowercase hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _shown(name: str) -> str:
    """Return a name from a disk or a store for an error, in one line."""
    return name if name.isprintable() else ascii(name)
