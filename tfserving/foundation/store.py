"""An object store with published versions, below a URL that fsspec supports: URL/MODEL/VERSION.

The content of the store isn't trusted. A manifest is validated before any file is fetched. A file is read up to the
size in the manifest, and rejected as soon as it is larger.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tfserving.foundation.extras import missing_for_store
from tfserving.foundation.golden import is_version
from tfserving.foundation.manifest import (
    LARGEST_BYTES,
    MANIFEST,
    SAVED_MODEL,
    SIGNATURE,
    Entry,
    Manifest,
    ManifestError,
)
from tfserving.foundation.version_files import BESIDE

MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# The folder of a model with what publishers upload before it is a version.
PUBLISHING = ".publishing"
# By protocol of an object store the package that it needs besides fsspec. For other protocols, fsspec names it.
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
# A store that can't be reached is reported within a minute; botocore's defaults take ten.
_S3 = {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3, "mode": "standard"}}}
_CHUNK = 1 << 20
# How much a store's library reads ahead, and so keeps in memory.
_BLOCK = 8 << 20


class StoreError(Exception):
    """A store can't be read, or a version in it is incomplete."""


class AbsentError(StoreError):
    """A file or folder isn't in the store."""


class UnfinishedError(AbsentError):
    """A version is still being published."""


@dataclass(frozen=True)
class Limits:
    """Limits of a version: bytes of all its files, and number of files."""

    size: int = 64 << 30
    files: int = 10_000


@dataclass(frozen=True)
class Listing:
    """A version's manifest, and the files that it lists."""

    manifest: bytes
    files: dict[str, Entry]

    @property
    def size(self) -> int:
        """Bytes of all files, the manifest included."""
        return len(self.manifest) + sum(entry.size for entry in self.files.values())


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a URL or a path of this machine, and the path in it.

    Raises StoreError when the URL is invalid, or needs a package that isn't installed.
    """
    from fsspec.core import url_to_fs
    from fsspec.utils import get_protocol

    # It logs an error with its traceback before raising it.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    try:
        system, root = url_to_fs(url, **(_S3 if _PACKAGES.get(get_protocol(url)) == "s3fs" else {}))
    except ImportError:
        raise StoreError(missing_for_store(url)) from None
    except ValueError as error:
        raise StoreError(f"{url}: {error}") from None
    return system, str(root)


def is_disk(system: Any) -> bool:
    """Return whether a file system is this machine's."""
    return "file" in protocols(system)


def protocols(system: Any) -> tuple[str, ...]:
    """Return the protocols of a file system of fsspec."""
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


class Store:
    """The versions below a URL that fsspec supports."""

    def __init__(self, url: str) -> None:
        """Raises StoreError when the URL is invalid, or needs a package that isn't installed."""
        self.url = url.rstrip("/")
        self._system, root = file_system(self.url)
        # Libraries cache listings, for every store with the same options.
        self._system.invalidate_cache()
        self._root = root.rstrip("/")
        # The only store with pipes, and with links, which may lead out of it.
        self._is_disk = is_disk(self._system)

    def models(self) -> list[str]:
        """Return the names of the models. Raises StoreError."""
        return sorted(name for name in self._folders("") if MODEL.fullmatch(name))

    def versions(self, model: str) -> list[int]:
        """Return the versions of a model, oldest first, including those still being published. Raises StoreError."""
        return sorted(int(name) for name in self._folders(f"/{model}") if is_version(name) and not name.startswith("0"))

    def complete(self, model: str, version: int) -> bool:
        """Return whether all of a version is published: `tfserving export publish` writes saved_model.pb last."""
        with self._reading(f"{self.url}/{model}"):
            return bool(self._system.exists(f"{self._root}/{model}/{version}/{SAVED_MODEL}"))

    def unfinished(self, model: str) -> list[str]:
        """Return the names of uploads of this model that publishers began. Raises StoreError."""
        return sorted(self._folders(f"/{model}/{PUBLISHING}"))

    def sizes(self, model: str, version: int) -> dict[str, int]:
        """Return the size in bytes of every file of a version, by its path there. Raises StoreError."""
        root = f"{self._root}/{model}/{version}"
        with self._reading(f"{self.url}/{model}/{version}"):
            found = self._system.find(root, detail=True)
        start = f"{root.lstrip('/')}/"
        return {name.lstrip("/").removeprefix(start): int(info.get("size") or 0) for name, info in found.items()}

    def listing(self, model: str, version: int, limits: Limits) -> Listing:
        """Return a version's manifest, and the files that it lists. Raises StoreError when it is invalid."""
        where = f"{self.url}/{model}/{version}"
        with self._opened(f"{model}/{version}", MANIFEST, where) as file, self._reading(where):
            data = file.read(LARGEST_BYTES + 1)
        try:
            manifest = Manifest(data, f"{where}/{MANIFEST}")
            entries = manifest.files()
            manifest.digest()
        except ManifestError as error:
            raise StoreError(str(error)) from None
        if len(entries) > limits.files:
            raise StoreError(f"{where} has {len(entries)} files; --max-files is {limits.files}")
        listing = Listing(data, entries)
        if listing.size > limits.size:
            raise StoreError(f"{where} has {listing.size} bytes; --max-bytes is {limits.size}")
        return listing

    def signature(self, model: str, version: int) -> bytes | None:
        """Return a version's signature, which isn't verified; None when it has none. Raises StoreError."""
        where, most = f"{self.url}/{model}/{version}", BESIDE[SIGNATURE]
        try:
            with self._opened(f"{model}/{version}", SIGNATURE, where) as file, self._reading(where):
                data = file.read(most + 1)
        except AbsentError:
            return None
        if len(data) > most:
            raise StoreError(f"{where}: {SIGNATURE} is larger than {most} bytes")
        return data

    def fetch(
        self,
        model: str,
        version: int,
        listing: Listing,
        into: Path,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Copy the files that a version's manifest lists, and check their size and SHA-256.

        The manifest and the signature go with them; the signature isn't verified. Other files are left. `progress` is
        called with the number of bytes that arrived.
        Raises StoreError for a fault in the store, and OSError when a file can't be written.
        """
        before = 0
        for name, entry in listing.files.items():
            for size in self._copy(f"{model}/{version}", name, entry, into / name):
                progress(before + size)
            before += entry.size
        beside = {MANIFEST: listing.manifest, SIGNATURE: self.signature(model, version)}
        for name, data in beside.items():
            if data is not None:
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                (into / name).write_bytes(data)

    def _folders(self, path: str) -> list[str]:
        try:
            with self._reading(self.url + path):
                found = self._system.ls(self._root + path, detail=True)
        except AbsentError:
            return []
        return [str(one["name"]).rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory"]

    def _copy(self, version: str, name: str, entry: Entry, local: Path) -> Iterator[int]:
        """Copy a file, and yield how many bytes of it are copied."""
        where = f"{self.url}/{version}"
        local.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with local.open("wb") as copy, self._opened(version, name, where, entry.size) as file:
            while True:
                with self._reading(where, name):
                    chunk = file.read(min(_CHUNK, entry.size + 1 - size))
                if not chunk:
                    break
                size += len(chunk)
                if size > entry.size:
                    raise StoreError(
                        f"{where} is incomplete: {name!r} is larger than the {entry.size} bytes of the manifest"
                    )
                digest.update(chunk)
                copy.write(chunk)
                yield size
        if (size, digest.hexdigest()) != (entry.size, entry.sha256):
            raise StoreError(
                f"{where} is incomplete: {name!r}: got {size} bytes of SHA-256 {digest.hexdigest()}, expected "
                f"{entry.size} bytes of {entry.sha256}"
            )

    @contextmanager
    def _opened(self, version: str, name: str, where: str, size: int | None = None) -> Iterator[BinaryIO]:
        """Open a file of a version. Raises StoreError, also when its size isn't the given one."""
        remote = f"{self._root}/{version}/{name}"
        with self._reading(where, name):
            found = self._system.info(remote)
            there = found.get("size")
            if found["type"] != "file":
                raise StoreError(f"{where} is incomplete: {name!r} is not a file")
            if self._is_disk and not (_within(remote, f"{self._root}/{version}") and _within(remote, self._root)):
                raise StoreError(f"{where} is incomplete: {name!r} is a link out of the version")
            if size is not None and there is not None and there != size:
                raise StoreError(f"{where} is incomplete: {name!r}: got {there} bytes, expected {size}")
            file = self._system.open(remote, "rb", block_size=_BLOCK)
        with file:
            yield file

    @contextmanager
    def _reading(self, where: str, name: str = "") -> Iterator[None]:
        """Raise a StoreError for any error of the store's library."""
        try:
            yield
        except StoreError:
            raise
        except FileNotFoundError:
            missing = f"{where} is incomplete: {name!r} is missing" if name else f"{where} does not exist"
            raise AbsentError(missing) from None
        except Exception as error:
            raise StoreError(f"cannot read {where}: {_first_line(error)}") from error


def _within(path: str, folder: str) -> bool:
    """Return whether a path of this machine is in a folder, after links are resolved."""
    return os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)


def _first_line(error: Exception) -> str:
    return next(iter((str(error) or type(error).__name__).splitlines()), type(error).__name__)
