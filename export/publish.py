"""Copies a version to a folder or an object store, in such a way that servers never find half of it.

    check the version ──► read the destination ──► folder: hidden sibling ──► rename
                                               └─► object store: all other files ──► read back ──► saved_model.pb

A server finds a version by its saved_model.pb. An object appears whole or not at all, so an object store has no version
until its last object is written. A publish that was interrupted resumes with the missing files.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserving.export.check import check_files
from tfserving.export.errors import ExportError
from tfserving.export.manifest import FileEntry, Manifest, hash_files
from tfserving.export.staging import Staging, check_writable
from tfserving.foundation.golden import MANIFEST, SAVED_MODEL
from tfserving.foundation.store import StoreError, file_system, is_disk, is_object_store

CHUNK = 4 << 20
# The number of names that an error lists.
SOME = 5


class PublishError(ExportError):
    """A version could not be published. The destination has no part of it that a server would load."""


@dataclass(frozen=True)
class Published:
    """A version at its destination: the number of files and bytes that were sent now, and the time that it took."""

    url: str
    files: int
    files_sent: int
    sent_bytes: int
    duration_seconds: float

    def __str__(self) -> str:
        if not self.files_sent:
            return f"{self.url} exists already, and all {self.files} files are the same"
        sent = f"{self.files_sent} of {self.files} files sent, {self.sent_bytes} bytes"
        return f"{self.url}: {sent}, in {self.duration_seconds:.1f} s"


def check_destination(destination: str, model: str) -> None:
    """Raise ExportError when versions of `model` can't be published there, as far as this machine shows it.

    `destination` is a folder or a URL that fsspec supports.
    """
    if not destination:
        raise PublishError("the destination is empty. Name a folder or a URL, such as s3://bucket/models")
    with _as_sentence(destination):
        system, root = _file_system(destination)
    if is_disk(system):
        check_writable(Path(root) / model)


def publish(
    version_folder: Path, model: str, version: int, destination: str, now: Callable[[str], None] = lambda _: None
) -> Published:
    """Copy the version in `version_folder` to DESTINATION/MODEL/VERSION, a folder or a URL that fsspec supports.

    `now` is called with each step. A version that exists and is the same is left as it is. Raises CheckError or
    ManifestError when the version is not intact, PublishError when another one exists or the destination can't be
    written.
    """
    start = time.monotonic()
    now("comparing the files with the manifest")
    manifest = check_files(version_folder)
    files = _entries(version_folder, manifest)
    with _as_sentence(destination):
        system, root = _file_system(destination)
    url = f"{destination.rstrip('/')}/{model}/{version}"
    now(f"looking for {url}")
    if is_disk(system):
        sent = _to_folder(version_folder, files, Path(root) / model / str(version), now)
    else:
        with _as_sentence(url):
            sent = _to_store(system, version_folder, files, f"{root.rstrip('/')}/{model}/{version}", url, now)
    return Published(
        url, len(files), len(sent), sum(files[name].size for name in sent), round(time.monotonic() - start, 3)
    )


def _entries(version_folder: Path, manifest: Manifest) -> dict[str, FileEntry]:
    """Return the files of the version with sizes and hashes, in the order of sending: saved_model.pb last."""
    text = (version_folder / MANIFEST).read_bytes()
    files = {
        **manifest.files,
        MANIFEST: FileEntry(size=len(text), sha256=hashlib.sha256(text).hexdigest()),
    }
    return {name: files[name] for name in sorted(files, key=lambda name: (name == SAVED_MODEL, name))}


def _to_folder(
    version_folder: Path, files: Mapping[str, FileEntry], target: Path, now: Callable[[str], None]
) -> list[str]:
    if target.exists():
        _require_same(str(target), files, {**hash_files(target), **_manifest_entry(target)})
        return []
    try:
        with Staging(target.parent) as staging:
            for number, name in enumerate(files, 1):
                now(_progress(number, files, name))
                copy = staging.version_folder / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(version_folder / name, copy)
            now("reading the copy back")
            copied = {**hash_files(staging.version_folder), **_manifest_entry(staging.version_folder)}
            _require_same(str(target), files, copied, "the copy")
            staging.place(int(target.name))
    except FileExistsError:
        raise PublishError(f"{target} was created by another program meanwhile, and was not changed") from None
    except OSError as error:
        raise PublishError(f"{target}: {error.strerror or error}") from None
    return list(files)


def _manifest_entry(folder: Path) -> dict[str, FileEntry]:
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    data = path.read_bytes()
    return {MANIFEST: FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())}


def _to_store(
    system: Any,
    version_folder: Path,
    files: Mapping[str, FileEntry],
    prefix: str,
    url: str,
    now: Callable[[str], None],
) -> list[str]:
    bucket = prefix.partition("/")[0]
    system.invalidate_cache()
    try:
        found = system.find(prefix, detail=True)
    except FileNotFoundError:
        if is_object_store(system):
            raise PublishError(f"{url}: the bucket {bucket!r} does not exist. Create it first.") from None
        found = {}
    there = {
        name.removeprefix("/").removeprefix(f"{prefix.removeprefix('/')}/"): info["size"]
        for name, info in found.items()
    }
    if SAVED_MODEL in there:
        _require_same(url, files, {name: _read_back(system, f"{prefix}/{name}") for name in there})
        return []
    _abort_uploads(system, bucket, prefix)
    for name in sorted(there.keys() - files.keys()):
        now(f"removing {name}, which another version's publish left")
        system.rm_file(f"{prefix}/{name}")
    sent = []
    for number, (name, entry) in enumerate(files.items(), 1):
        remote = f"{prefix}/{name}"
        if there.get(name) == entry.size and _read_back(system, remote) == entry:
            now(f"{_progress(number, files, name)}: exists already")
            continue
        now(_progress(number, files, name))
        system.makedirs(remote.rpartition("/")[0], exist_ok=True)
        system.put_file(str(version_folder / name), remote)
        if (found := _read_back(system, remote)) != entry:
            raise PublishError(
                f"{url}/{name}: read back SHA-256 {found.sha256} ({found.size} bytes), expected {entry.sha256} "
                f"({entry.size} bytes)"
            )
        sent.append(name)
    return sent


def _read_back(system: Any, remote: str) -> FileEntry:
    """Return size and hash of an object in the store, which is read in pieces."""
    digest, size = hashlib.sha256(), 0
    with system.open(remote, "rb", block_size=CHUNK, cache_type="none") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(size=size, sha256=digest.hexdigest())


def _require_same(
    where: str, files: Mapping[str, FileEntry], found: Mapping[str, FileEntry], what: str = "the existing version"
) -> None:
    differ = sorted(name for name in files.keys() | found.keys() if files.get(name) != found.get(name))
    if differ:
        some = ", ".join(differ[:SOME]) + (" …" if len(differ) > SOME else "")
        raise PublishError(f"{where}: {what} differs in {some}. A version is never overwritten: publish a new number.")


def _abort_uploads(system: Any, bucket: str, prefix: str) -> None:
    """Free the parts that an interrupted upload left in the store; only S3 keeps any."""
    if not hasattr(system, "list_multipart_uploads"):
        return
    path = prefix.partition("/")[2]
    for upload in system.list_multipart_uploads(bucket) or ():
        if upload["Key"].startswith(f"{path}/"):
            system.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def _file_system(destination: str) -> tuple[Any, str]:
    try:
        return file_system(destination)
    except StoreError as error:
        raise PublishError(str(error)) from None


def _progress(number: int, files: Mapping[str, FileEntry], name: str) -> str:
    return f"{number} of {len(files)}: {name} ({files[name].size} bytes)"


@contextmanager
def _as_sentence(url: str) -> Iterator[None]:
    """Turn any error of a store or its library into one line with the place."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
        raise PublishError(f"{url} can't be written: {reason}") from None
