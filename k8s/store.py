"""An object store with published versions, read without trust: below a URL that fsspec knows, MODEL/VERSION.

Whoever writes to the store decides what is there, so each version is read as its manifest says, within bounds: a file
is refused as soon as it is larger, and a manifest before anything is fetched if it isn't right.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tfserving.foundation.golden import MANIFEST, SAVED_MODEL, is_version
from tfserving.foundation.manifest import LARGEST_BYTES, Manifest, ManifestError

MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# A store that isn't there is reported within a minute, not within botocore's ten.
_S3 = {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3, "mode": "standard"}}}
_CHUNK = 1 << 20
# What a store's library reads ahead, and so keeps in memory.
_BLOCK = 8 << 20


class SyncError(Exception):
    """The store can't be read, or a version there isn't whole; the text says which."""


class AbsentError(SyncError):
    """Something isn't in the store."""


@dataclass(frozen=True)
class Limits:
    """What a version may have: bytes of all its files, and files."""

    size: int = 64 << 30
    files: int = 10_000


@dataclass(frozen=True)
class File:
    """A file of a version: its SHA-256 and its bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Listing:
    """A version's manifest, and what it lists."""

    manifest: bytes
    files: dict[str, File]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return len(self.manifest) + sum(entry.size for entry in self.files.values())


class Store:
    """The versions below a URL that fsspec knows."""

    def __init__(self, url: str) -> None:
        """Raises SyncError when the URL is none, or needs a package that isn't installed."""
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        try:
            self._system, root = url_to_fs(self.url, **(_S3 if url.startswith("s3://") else {}))
        except (ImportError, ValueError) as error:
            raise SyncError(f"{url}: {error}") from None
        # Libraries keep what they have listed, for every store of the same options.
        self._system.invalidate_cache()
        self._root = str(root).rstrip("/")
        protocol = self._system.protocol
        # The only store with links, which lead out of it, and pipes.
        self._is_disk = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def models(self) -> list[str]:
        """The names of the models. Raises SyncError."""
        return sorted(name for name in self._folders("") if MODEL.fullmatch(name))

    def versions(self, model: str) -> list[int]:
        """The versions of a model, oldest first, those that are still being published, too. Raises SyncError."""
        return sorted(int(name) for name in self._folders(f"/{model}") if is_version(name) and not name.startswith("0"))

    def complete(self, model: str, version: int) -> bool:
        """Whether all of a version was published: `tfserving export publish` writes saved_model.pb last."""
        with self._asked(f"{self.url}/{model}"):
            return bool(self._system.exists(f"{self._root}/{model}/{version}/{SAVED_MODEL}"))

    def listing(self, model: str, version: int, limits: Limits) -> Listing:
        """A version's manifest, and what it lists. Raises SyncError when it isn't right."""
        where = f"{self.url}/{model}/{version}"
        with self._opened(f"{model}/{version}", MANIFEST, where) as file, self._asked(where):
            data = file.read(LARGEST_BYTES + 1)
        try:
            manifest = Manifest(data, f"{where}/{MANIFEST}")
            entries = manifest.files()
            manifest.digest()
        except ManifestError as error:
            raise SyncError(str(error)) from None
        if SAVED_MODEL not in entries or MANIFEST in entries:
            raise SyncError(f"{where}/{MANIFEST} must list {SAVED_MODEL} and must not list itself")
        if len(entries) > limits.files:
            raise SyncError(f"{where} has {len(entries)} files; --max-files is {limits.files}")
        files = {
            name: File(
                entry.sha256, self._size(f"{model}/{version}", name, where) if entry.size is None else entry.size
            )
            for name, entry in entries.items()
        }
        listing = Listing(data, files)
        if listing.size > limits.size:
            raise SyncError(f"{where} has {listing.size} bytes; --max-bytes is {limits.size}")
        return listing

    def fetch(self, model: str, version: int, listing: Listing, into: Path) -> None:
        """Copies what a version's manifest lists, and compares it.

        Raises SyncError for what the store has, and OSError when it can't be written.
        """
        for name, entry in listing.files.items():
            self._copy(f"{model}/{version}", name, entry, into / name)
        (into / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
        (into / MANIFEST).write_bytes(listing.manifest)

    def _folders(self, path: str) -> list[str]:
        try:
            with self._asked(self.url + path):
                found = self._system.ls(self._root + path, detail=True)
        except AbsentError:
            return []
        return [str(one["name"]).rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory"]

    def _size(self, version: str, name: str, where: str) -> int:
        """The bytes of a file as the store has it, for a manifest that doesn't say. Raises SyncError."""
        with self._asked(where, name):
            return int(self._system.info(f"{self._root}/{version}/{name}")["size"])

    def _copy(self, version: str, name: str, entry: File, local: Path) -> None:
        where = f"{self.url}/{version}"
        local.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with local.open("wb") as copy, self._opened(version, name, where, entry.size) as file:
            while True:
                with self._asked(where, name):
                    chunk = file.read(min(_CHUNK, entry.size + 1 - size))
                if not chunk:
                    break
                size += len(chunk)
                if size > entry.size:
                    raise SyncError(f"{where} is not whole: {name!r} has more bytes than the manifest says")
                digest.update(chunk)
                copy.write(chunk)
        if (size, digest.hexdigest()) != (entry.size, entry.sha256):
            raise SyncError(
                f"{where} is not whole: {name!r} has {size} bytes of SHA-256 {digest.hexdigest()}, the manifest says "
                f"{entry.size} of {entry.sha256}"
            )

    @contextmanager
    def _opened(self, version: str, name: str, where: str, size: int | None = None) -> Iterator[BinaryIO]:
        """A file of a version, to read. Raises SyncError, also when it hasn't the size that is given."""
        remote = f"{self._root}/{version}/{name}"
        with self._asked(where, name):
            found = self._system.info(remote)
            there = found.get("size")
            if found["type"] != "file":
                raise SyncError(f"{where} is not whole: {name!r} is not a file")
            if self._is_disk and not _within(remote, f"{self._root}/{version}"):
                raise SyncError(f"{where} is not whole: {name!r} is a link out of the version")
            if size is not None and there is not None and there != size:
                raise SyncError(f"{where} is not whole: {name!r} has {there} bytes, the manifest says {size}")
            file = self._system.open(remote, "rb", block_size=_BLOCK)
        with file:
            yield file

    @contextmanager
    def _asked(self, where: str, name: str = "it") -> Iterator[None]:
        """Whatever the store's library raises becomes a SyncError."""
        try:
            yield
        except SyncError:
            raise
        except FileNotFoundError:
            raise AbsentError(f"{where} is not whole: {name!r} isn't there") from None
        except Exception as error:
            raise SyncError(f"{where} can't be read: {_words(error)}") from error


def _within(path: str, folder: str) -> bool:
    """Whether a path of this machine stays in a folder, wherever links lead."""
    return os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)


def _words(error: Exception) -> str:
    return next(iter((str(error) or type(error).__name__).splitlines()), type(error).__name__)
