"""Copies of versions from a folder that others may write to, into one that they can't.

Whoever can write to the original may change it at any moment, replace it by a link or a pipe, or let a file grow
without end. So nothing is known about the original: what the manifest lists is copied, as many bytes as it lists, and
the copy is judged.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from tfserving.foundation.files import read_bounded
from tfserving.foundation.manifest import MANIFEST, ManifestError, read_manifest_file
from tfserving.foundation.trust import Accepted, Trust, accept
from tfserving.foundation.version_files import BESIDE, VersionError, changed, differences, sizes_of

Report = Callable[[str], None]
_CHUNK = 8 << 20
# Also the container's user, who isn't the owner, reads a copy. The folders around it keep others out.
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644


def copy_accepted(
    source: Path, target: Path, model: str, version: int, trust: Trust | None, report: Report
) -> Accepted:
    """Copy the version in `source` to `target`, which doesn't exist, and return it after judging the copy.

    Nobody else may be able to write to the folder of `target`. Raises VersionError, which names `source`, and then
    `target` is left as far as it was copied.
    """
    _copy(source, target, f"{model}/{version}", report)
    report(f"Checking {model}/{version}")
    return accepted_as(source, target, model, version, trust)


def accepted_as(source: Path, copy: Path, model: str, version: int, trust: Trust | None) -> Accepted:
    """Return the version in `copy` after judging it; errors name `source`, which it is a copy of."""
    try:
        return accept(copy, model, version, trust)
    except VersionError as error:
        raise type(error)(str(error).replace(str(copy), str(source))) from None


def is_current(source: Path, copy: Path) -> bool:
    """Return whether `copy` has the files of `source`, by their names, sizes and times, and the same manifest.

    Whoever sets back the time of a changed file gets True. The copy is what is served, and it has not changed.
    """
    try:
        listed = _stamps(source)
        return listed == _stamps(copy) and all(
            read_bounded(source / name, largest) == read_bounded(copy / name, largest)
            for name, largest in BESIDE.items()
            if name in listed
        )
    except (OSError, ValueError, VersionError):
        return False


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    found = {name: (folder / name).lstat() for name in sizes_of(folder)}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found.items()}


def _copy(source: Path, target: Path, title: str, report: Report) -> None:
    """Copy what the manifest of `source` lists. Raises VersionError for anything else there, and other sizes."""
    try:
        manifest, sizes = read_manifest_file(source / MANIFEST), sizes_of(source)
        listed = manifest.files()
        # The digests are those of the copy.
        if problems := differences(manifest, sizes, lambda name: listed[name].sha256):
            raise changed(source, problems)
        whole = sum(sizes.values())
        target.mkdir(parents=True)
        if whole > (free := shutil.disk_usage(target).free):
            raise VersionError(f"{source} has {whole} bytes, and the disk of {target.parent} has {free} bytes free")
        done = 0
        for name, size in sizes.items():
            for copied in _copy_file(source, target, name, size):
                done += copied
                report(f"Copying {title}: {done >> 20} of {-(-whole >> 20)} MiB")
    except ManifestError as error:
        raise VersionError(f"{source} has no valid manifest: {error}") from None
    except OSError as error:
        raise VersionError(f"{source} can't be copied: {error.filename or target}: {error.strerror}") from None
    for folder, _, _ in os.walk(target):
        os.chmod(folder, _FOLDER_MODE)  # noqa: PTH101 - as os.walk has it


def _copy_file(source: Path, target: Path, name: str, size: int) -> Iterator[int]:
    """Copy a file of exactly `size` bytes with its time, and yield the number of each step's bytes.

    Raises VersionError when it is no file, or has another size.
    """
    # A pipe would block the open, and a link may lead to a device.
    read = os.open(source / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(read)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            raise VersionError(f"{source / name} was changed while it was copied")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with (target / name).open("xb", buffering=0) as file:
            done = 0
            while done < size:
                if not (copied := _copy_some(read, file.fileno(), min(_CHUNK, size - done))):
                    raise VersionError(f"{source / name} was changed while it was copied")
                done += copied
                yield copied
            os.fchmod(file.fileno(), _FILE_MODE)
            os.utime(file.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
            os.fsync(file.fileno())
    finally:
        os.close(read)


def _copy_some(read: int, write: int, most: int) -> int:
    """Copy up to `most` bytes, on some file systems without reading them, and return how many."""
    # Across file systems, and on some of them, it fails.
    with contextlib.suppress(OSError, AttributeError):
        if copied := os.copy_file_range(read, write, most):
            return copied
    data = os.read(read, most)
    view = memoryview(data)
    while view:
        view = view[os.write(write, view) :]
    return len(data)
