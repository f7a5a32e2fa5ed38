"""Fetches a published version into the folder of versions: whole, checked and accepted, or not at all.

read its manifest ──► room, limits ──► files into a hidden folder ──► accept ──► rename to its number
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfserving.export.errors import ExportError
from tfserving.export.published.source import Contents, Source, Wanted
from tfserving.export.staging import Staging, check_writable
from tfserving.foundation.manifest import MANIFEST, ManifestError
from tfserving.foundation.store import AbsentError, Limits, StoreError, UnfinishedError
from tfserving.foundation.trust import Trust, accept
from tfserving.foundation.version_files import VersionError

# Incomplete versions that are passed over in search of the newest one.
_MOST_INCOMPLETE = 20
# Of the bytes of a version, which stay free: folders, and blocks that are not full.
_SPARE = 64 << 20


class FetchError(ExportError):
    """A version could not be fetched. Nothing of it is in the folder."""


@dataclass(frozen=True)
class Fetched:
    """A version in the folder of versions. `signer` is None without `trust`; `reference` is that of a registry."""

    source: str
    path: str
    model: str
    version: int
    digest: str
    signer: str | None
    reference: str | None
    size_bytes: int
    fetched: bool
    duration_seconds: float

    def __str__(self) -> str:
        signed = f", signed by {self.signer}" if self.signer else ""
        if not self.fetched:
            return f"{self.path} exists already, and is the same as {self.source}{signed}"
        return f"{self.path}: {self.size_bytes} bytes from {self.source}{signed}, in {self.duration_seconds:.1f} s"


def fetch(
    source: Source,
    model: str,
    wanted: Wanted | None,
    folder: Path,
    trust: Trust | None,
    limits: Limits,
    now: Callable[[str], None] = lambda _: None,
) -> Fetched:
    """Fetch a version of `model` from `source` to FOLDER/MODEL/VERSION: a number, a digest, or None for the newest.

    With `trust` one of its keys, certificates or identities must have signed it. `now` is called with each step. A
    version that exists and is the same is left as it is. Raises FetchError.
    """
    start = time.monotonic()
    try:
        now(f"reading {source.url}")
        version, contents = _found(source, model, wanted, limits)
        number, name = contents.manifest.version(), contents.manifest.model()
        where = contents.reference or f"{source.url}/{model}/{version}"
        if name != model or (isinstance(version, int) and number != version):
            expected = f"version {version} of {model}" if isinstance(version, int) else f"a version of {model}"
            raise FetchError(f"{where} is version {number} of {name}, expected {expected}")
        target = folder / model / str(number)
        is_new = not target.exists()
        if is_new:
            signer = _fetched(source, version, contents, target, trust, now)
        else:
            signer = _same(target, contents, trust, where)
        digest = contents.manifest.digest()
    except (StoreError, VersionError, ManifestError) as error:
        raise FetchError(str(error)) from None
    took = round(time.monotonic() - start, 3)
    return Fetched(where, str(target), model, number, digest, signer, contents.reference, contents.size, is_new, took)


def _found(source: Source, model: str, wanted: Wanted | None, limits: Limits) -> tuple[Wanted, Contents]:
    """Return the version that is wanted, and what it says of itself. Raises StoreError."""
    if wanted is not None:
        contents = source.contents(model, wanted, limits)
        if not contents.is_complete:
            raise UnfinishedError(f"{source.url}/{model}/{wanted} is still being published")
        return wanted, contents
    for number in source.versions(model).numbers[:_MOST_INCOMPLETE]:
        try:
            contents = source.contents(model, number, limits)
        except AbsentError:
            continue
        if contents.is_complete:
            return number, contents
    raise StoreError(f"{source.url} has no complete version of {model}")


def _fetched(
    source: Source,
    version: Wanted,
    contents: Contents,
    target: Path,
    trust: Trust | None,
    now: Callable[[str], None],
) -> str | None:
    model, number = target.parent.name, int(target.name)
    check_writable(target.parent)
    try:
        existing = next(path for path in target.absolute().parents if path.exists())
        if (free := shutil.disk_usage(existing).free) < contents.size + _SPARE:
            raise FetchError(
                f"{existing} has {free} bytes free; {source.url}/{model}/{number} needs {contents.size}, and "
                f"{_SPARE} stay free"
            )
        with Staging(target.parent) as staging:
            total = contents.size

            def progress(size: int) -> None:
                now(f"fetching {model}/{number}: {size >> 20} of {total >> 20} MiB")

            source.fetch(model, version, contents, staging.version_folder, progress)
            now("comparing the files with the manifest")
            signer = _accepted(staging.version_folder, target, trust, f"{source.url}/{model}/{number}")
            staging.place(number)
    except FileExistsError:
        raise FetchError(f"{target} was created by another program meanwhile, and was not changed") from None
    except OSError as error:
        raise FetchError(f"{target}: {error.strerror or error}") from None
    return signer


def _same(target: Path, contents: Contents, trust: Trust | None, where: str) -> str | None:
    """Return who signed the version that is there, if it is the same one. Raises FetchError for another.

    Its signature may be another one than that in the store, and stays.
    """
    signer = _accepted(target, target, trust, str(target))
    if (target / MANIFEST).read_bytes() != contents.data:
        raise FetchError(f"{target} differs from {where}. A version is never overwritten")
    return signer


def _accepted(folder: Path, target: Path, trust: Trust | None, where: str) -> str | None:
    try:
        return accept(folder, target.parent.name, int(target.name), trust).signer
    except VersionError as error:
        # The hidden folder is gone when the error is read.
        raise FetchError(str(error).replace(str(folder), where)) from None
