"""Copies a version to where servers find it, never half of it where they look.

    check the version ──► look at the destination ──► folder: hidden sibling ──► rename
                                                  └─► object store: everything else ──► read back ──► saved_model.pb

A server finds a version by its saved_model.pb. An object appears whole or not at all, so until the last one is there an
object store has no version; a publish that was interrupted goes on with what is missing.
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
from tfserving.export.staging import Staging
from tfserving.foundation.golden import MANIFEST, SAVED_MODEL

CHUNK = 4 << 20
# So many names are an error's text, not more.
SOME = 5
# By protocol what has to be installed besides fsspec; for others fsspec says it.
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
# A store that isn't there is told within a minute, not within botocore's ten.
S3 = {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3, "mode": "standard"}}}


class PublishError(ExportError):
    """A version could not be published; the destination has no part of it that a server would load."""


@dataclass(frozen=True)
class Published:
    """A version at its destination: how much of it was sent now, in bytes, and how long that took."""

    url: str
    files: int
    files_sent: int
    bytes_sent: int
    seconds: float

    def __str__(self) -> str:
        if not self.files_sent:
            return f"{self.url} is there already, all {self.files} files as they should be"
        sent = f"{self.files_sent} of {self.files} files sent, {self.bytes_sent} bytes"
        return f"{self.url}: {sent}, in {self.seconds:.1f} s"


def publish(
    version_folder: Path, model: str, version: int, destination: str, say: Callable[[str], None] = lambda _: None
) -> Published:
    """Copies the version in `version_folder` to DESTINATION/MODEL/VERSION: a folder, or a URL that fsspec knows.

    `say` is told of each file. A version that is there already and the same is left as it is. Raises CheckError or
    ManifestError when the version is not whole, PublishError when another one is there or the destination can't be
    written to.
    """
    start = time.monotonic()
    manifest = check_files(version_folder)
    files = _entries(version_folder, manifest)
    with _told(destination):
        system, root = _file_system(destination)
    url = f"{destination.rstrip('/')}/{model}/{version}"
    if "file" in _protocols(system):
        sent = _to_folder(version_folder, files, Path(root) / model / str(version), say)
    else:
        with _told(url):
            sent = _to_store(system, version_folder, files, f"{root.rstrip('/')}/{model}/{version}", url, say)
    return Published(
        url, len(files), len(sent), sum(files[name].size for name in sent), round(time.monotonic() - start, 3)
    )


def _entries(version_folder: Path, manifest: Manifest) -> dict[str, FileEntry]:
    """Every file of the version with its size and hash, in the order in which they are sent: saved_model.pb last."""
    text = (version_folder / MANIFEST).read_bytes()
    files = {
        **manifest.files,
        MANIFEST: FileEntry(size=len(text), sha256=hashlib.sha256(text).hexdigest()),
    }
    return {name: files[name] for name in sorted(files, key=lambda name: (name == SAVED_MODEL, name))}


def _to_folder(
    version_folder: Path, files: Mapping[str, FileEntry], target: Path, say: Callable[[str], None]
) -> list[str]:
    if target.exists():
        _require_same(str(target), files, {**hash_files(target), **_manifest_entry(target)})
        return []
    try:
        with Staging(target.parent) as staging:
            for number, name in enumerate(files, 1):
                say(_progress(number, files, name))
                copy = staging.version_folder / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(version_folder / name, copy)
            there = {**hash_files(staging.version_folder), **_manifest_entry(staging.version_folder)}
            _require_same(str(target), files, there, "what was copied")
            staging.place(int(target.name))
    except FileExistsError:
        raise PublishError(f"{target} was made by somebody else meanwhile; nothing of it was changed") from None
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
    say: Callable[[str], None],
) -> list[str]:
    bucket = prefix.partition("/")[0]
    system.invalidate_cache()
    try:
        found = system.find(prefix, detail=True)
    except FileNotFoundError:
        if _is_object_store(system):
            raise PublishError(f"{url}: there is no bucket {bucket!r}; make it first") from None
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
        say(f"removing {name}, left by another version's publish")
        system.rm_file(f"{prefix}/{name}")
    sent = []
    for number, (name, entry) in enumerate(files.items(), 1):
        remote = f"{prefix}/{name}"
        if there.get(name) == entry.size and _read_back(system, remote) == entry:
            say(f"{_progress(number, files, name)}: there already")
            continue
        say(_progress(number, files, name))
        system.makedirs(remote.rpartition("/")[0], exist_ok=True)
        system.put_file(str(version_folder / name), remote)
        if (found := _read_back(system, remote)) != entry:
            raise PublishError(
                f"{url}/{name} has SHA-256 {found.sha256} ({found.size} bytes) when it is read back, sent was "
                f"{entry.sha256} ({entry.size} bytes)"
            )
        sent.append(name)
    return sent


def _read_back(system: Any, remote: str) -> FileEntry:
    """Size and hash of what the store has, read in pieces."""
    digest, size = hashlib.sha256(), 0
    with system.open(remote, "rb", block_size=CHUNK, cache_type="none") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(size=size, sha256=digest.hexdigest())


def _require_same(
    where: str, files: Mapping[str, FileEntry], there: Mapping[str, FileEntry], what: str = "the version there"
) -> None:
    differ = sorted(name for name in files.keys() | there.keys() if files.get(name) != there.get(name))
    if differ:
        some = ", ".join(differ[:SOME]) + (" …" if len(differ) > SOME else "")
        raise PublishError(
            f"{where}: {what} is another one ({some} differ); versions are never overwritten, publish a new number"
        )


def _abort_uploads(system: Any, bucket: str, prefix: str) -> None:
    """Frees the parts that an interrupted upload left in the store; only S3 keeps any."""
    if not hasattr(system, "list_multipart_uploads"):
        return
    path = prefix.partition("/")[2]
    for upload in system.list_multipart_uploads(bucket) or ():
        if upload["Key"].startswith(f"{path}/"):
            system.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def _file_system(destination: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs
    from fsspec.utils import get_protocol

    protocol = get_protocol(destination)
    try:
        system, root = url_to_fs(destination, **(S3 if PACKAGES.get(protocol) == "s3fs" else {}))
    except ImportError as error:
        package = PACKAGES.get(protocol)
        remedy = f"install it with `pip install {package}`" if package else str(error)
        raise PublishError(f"{destination}: {protocol}:// needs a package that isn't installed; {remedy}") from None
    except ValueError as error:
        raise PublishError(f"{destination}: {error}") from None
    return system, str(root)


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _is_object_store(system: Any) -> bool:
    return any(protocol in PACKAGES for protocol in _protocols(system))


def _progress(number: int, files: Mapping[str, FileEntry], name: str) -> str:
    return f"{number} of {len(files)}: {name} ({files[name].size} bytes)"


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What a store or its library raises becomes one line that says where."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
        raise PublishError(f"{url} can't be written to: {said}") from None
