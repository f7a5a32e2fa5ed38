"""Publishing to a folder: a hidden sibling gets all files, and the version's name when it is whole.

A rename is atomic, and never replaces a folder with files in it, so the first publisher's version stays.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tfserving.export.outgoing import NEVER, Outgoing, PublishError, as_publish_error, is_another
from tfserving.export.staging import Staging
from tfserving.foundation.files import read_bounded
from tfserving.foundation.manifest import MANIFEST, SIGNATURE, ManifestError, read_manifest_file
from tfserving.foundation.trust import accept
from tfserving.foundation.version_files import BESIDE, VersionError, judge


def publish_to_folder(own: Outgoing, target: Path, now: Callable[[str], None]) -> dict[str, int]:
    """Copy the version to the folder `target`; return the bytes of each file that was copied, none when it existed.

    Raises PublishError.
    """
    try:
        if os.path.lexists(target):
            _require_same(own, target, now)
            return {}
        with Staging(target.parent) as staging:
            sent = _copy(own, staging.version_folder, now)
            try:
                staging.place(own.version)
            except FileExistsError:
                _require_same(own, target, now)
                return {}
            return sent
    except OSError as error:
        raise PublishError(f"{error.filename or target}: {error.strerror or error}") from None


def _copy(own: Outgoing, folder: Path, now: Callable[[str], None]) -> dict[str, int]:
    for number, (name, entry) in enumerate(own.files.items(), 1):
        now(f"{number} of {own.count}: {name} ({entry.size} bytes)")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(own.folder / name, folder / name)
    for name, data in own.beside.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    now("reading the copy back")
    with as_publish_error():
        accept(folder, own.model, own.version, own.trust)
    return {name: entry.size for name, entry in own.files.items()} | {
        name: len(data) for name, data in own.beside.items()
    }


def _require_same(own: Outgoing, target: Path, now: Callable[[str], None]) -> None:
    """Raise PublishError when the version in `target` isn't this one, and write this one's signature."""
    now("comparing the existing version")
    try:
        digest = read_manifest_file(target / MANIFEST).digest()
    except ManifestError as error:
        raise PublishError(f"{target} exists and is no version: {error}. {NEVER}") from None
    if digest != own.digest:
        raise is_another(str(target), digest, own)
    try:
        judge(target)
    except VersionError as error:
        raise PublishError(f"{error}\n{NEVER}") from None
    if own.signature is not None and _signature(target) != own.signature:
        # Beside the version: in it, a temporary file would be one that the manifest doesn't list.
        with Staging(target.parent) as staging:
            new = staging.scratch / "signature"
            with new.open("wb") as file:
                file.write(own.signature)
                file.flush()
                os.fsync(file.fileno())
            new.replace(target / SIGNATURE)
    if (found := _signature(target)) != own.signature:
        own.accept_signature(found, str(target))


def _signature(version: Path) -> bytes | None:
    try:
        return read_bounded(version / SIGNATURE, BESIDE[SIGNATURE])
    except FileNotFoundError:
        return None
    except ValueError:
        return b""
