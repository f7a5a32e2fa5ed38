"""Calls of the distribution specification: tags, manifests and blobs of one registry.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#endpoints

Whatever has a digest is compared with it, so a registry can't change what was asked for by digest.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tfserving.export.oci.errors import NotInRegistryError, RegistryError
from tfserving.export.oci.layout import MANIFEST_TYPE, Descriptor, digest_of
from tfserving.export.oci.place import DIGEST
from tfserving.export.oci.session import Session

# The specification's limit of a manifest, which clients have too.
LARGEST_MANIFEST = 4 << 20
_LARGEST_PAGE = 4 << 20
_PAGE = 1000
_OK, _CREATED, _ACCEPTED, _NOT_FOUND = 200, 201, 202, 404

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Tags:
    """The tags of a repository; `more` says that there are others, which weren't read."""

    names: tuple[str, ...]
    more: bool = False


class Registry:
    """The repositories of one registry."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def tags(self, repository: str, most: int) -> Tags:
        """Return up to `most` tags of a repository; none when it doesn't exist. Raises RegistryError."""
        names: list[str] = []
        url = f"/v2/{repository}/tags/list?n={_PAGE}"
        while True:
            response, data = self._session.small("GET", url, (_OK, _NOT_FOUND), _LARGEST_PAGE)
            if response.status_code == _NOT_FOUND:
                return Tags(tuple(names))
            found = _json_object(data, repository).get("tags") or []
            if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
                raise RegistryError(f"{repository}: the registry's list of tags has something else than names")
            names += found
            link = response.links.get("next", {}).get("url")
            if len(names) > most or not link or not found:
                return Tags(tuple(names[:most]), len(names) > most)
            # Only the path counts: a list of tags is nowhere else.
            parts = urlsplit(link)
            url = f"{parts.path}?{parts.query}"

    def manifest(self, repository: str, reference: str) -> bytes:
        """Return the image manifest of a tag or a digest. Raises NotInRegistryError, and RegistryError."""
        headers = {"Accept": MANIFEST_TYPE}
        url = f"/v2/{repository}/manifests/{reference}"
        response, data = self._session.small("GET", url, (_OK, _NOT_FOUND), LARGEST_MANIFEST, headers)
        if response.status_code == _NOT_FOUND:
            raise NotInRegistryError(f"{self._session.origin}/{repository} has no {reference}")
        if DIGEST.fullmatch(reference) and digest_of(data) != reference:
            raise RegistryError(
                f"{repository}@{reference}: the registry sent another manifest, whose digest is {digest_of(data)}"
            )
        return data

    def put_manifest(self, repository: str, tag: str, data: bytes) -> None:
        """Write an image manifest and its tag. Raises RegistryError."""
        url = f"/v2/{repository}/manifests/{tag}"
        self._session.small("PUT", url, (_CREATED,), headers={"Content-Type": MANIFEST_TYPE}, body=data)

    def has_blob(self, repository: str, blob: Descriptor) -> bool:
        """Return whether a repository has a blob. Raises RegistryError."""
        url = f"/v2/{repository}/blobs/{blob.digest}"
        response, _ = self._session.small("HEAD", url, (_OK, _NOT_FOUND))
        return bool(response.status_code == _OK)

    def upload(
        self, repository: str, blob: Descriptor, content: bytes | Path, progress: Progress = lambda _: None
    ) -> None:
        """Write a blob, which the registry compares with its digest. Raises RegistryError.

        `progress` is called with the number of bytes of a file that were sent.
        """
        start = f"/v2/{repository}/blobs/uploads/"
        response, _ = self._session.small("POST", start, (_ACCEPTED,), headers={"Content-Length": "0"})
        if not response.headers.get("location"):
            raise RegistryError(f"{repository}: the registry did not name a place for an upload")
        url = self._session.target(response, start)
        url += f"{'&' if urlsplit(url).query else '?'}digest={blob.digest}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        if isinstance(content, bytes):
            self._session.small("PUT", url, (_CREATED,), headers=headers, body=content)
        else:
            with _Sent(content, progress) as file:
                self._session.small("PUT", url, (_CREATED,), headers=headers, body=file)

    def blob(self, repository: str, blob: Descriptor) -> bytes:
        """Return a small blob, after comparing it with its digest. Raises RegistryError."""
        with self.reading(repository, blob) as file:
            return file.read(blob.size)

    @contextmanager
    def reading(self, repository: str, blob: Descriptor, progress: Progress = lambda _: None) -> Iterator[BlobReader]:
        """Open a blob to read it once, from the first byte to the last; at the end it is compared with its digest.

        `progress` is called with the number of bytes. Raises RegistryError.
        """
        url = f"/v2/{repository}/blobs/{blob.digest}"
        with self._session.opened("GET", url, (_OK,)) as response:
            reader = BlobReader(response.raw, blob, repository, progress)
            yield reader
            reader.finish()


class _Sent(io.FileIO):
    """A file that is read while it is sent."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path)
        self._progress = progress

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._progress(self.tell())
        return data or b""


class BlobReader:
    """The bytes of a blob as they arrive, not more than its descriptor has."""

    def __init__(self, raw: Any, blob: Descriptor, repository: str, progress: Progress) -> None:
        self._raw, self._blob, self._progress = raw, blob, progress
        self._where = f"{repository}@{blob.digest}"
        self._hash, self._size = hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, fewer only at the end. Raises RegistryError when there are too many."""
        parts = []
        while size > 0:
            chunk = self._raw.read(min(size, self._blob.size + 1 - self._size), decode_content=False)
            if not chunk:
                break
            self._size += len(chunk)
            if self._size > self._blob.size:
                raise RegistryError(f"{self._where}: the registry sent more than the {self._blob.size} bytes it should")
            self._hash.update(chunk)
            size -= len(chunk)
            parts.append(chunk)
        self._progress(self._size)
        return b"".join(parts)

    def finish(self) -> None:
        """Read the rest, and compare all of it with the digest. Raises RegistryError."""
        while self.read(1 << 20):
            pass
        found = f"sha256:{self._hash.hexdigest()}"
        if (self._size, found) != (self._blob.size, self._blob.digest):
            raise RegistryError(
                f"{self._where}: the registry sent {self._size} bytes of {found}, expected {self._blob.size} bytes"
            )


def _json_object(data: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RegistryError(f"{where}: the registry sent no JSON object")
    return found
