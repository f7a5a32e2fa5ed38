"""Objects of a store as a publisher writes them: created whole, and never in the place of another.

| | conditional write | copy within the store, for large objects |
| --- | --- | --- |
| S3 | `If-None-Match: *` | parts, completed with `If-None-Match: *` |
| GCS | `ifGenerationMatch=0` | rewrite with `ifGenerationMatch=0` |
| Azure | `If-None-Match: *` | plain, where nothing is |
| memory | one process | plain, where nothing is |

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html,
https://docs.cloud.google.com/storage/docs/request-preconditions,
https://learn.microsoft.com/en-us/rest/api/storageservices/put-blob.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tfserving.foundation.manifest import Entry
from tfserving.foundation.store import protocols

# By protocol, how fsspec's package writes an object only where there is none.
_CREATE: dict[str, dict[str, object]] = {
    **{name: {"mode": "create"} for name in ("s3", "s3a", "gs", "gcs", "memory")},
    **{name: {"overwrite": False} for name in ("abfs", "az")},
}
_CHUNK = 4 << 20
# A part of a copy has at most 5 GiB, and an object at most 10,000 of them.
_PART, _PARTS_AT_ONCE = 128 << 20, 8
# S3 returns 409 for some writes at the same time as another, and wants them to be tried again.
_TRIES, _CONFLICTS = 5, ("ConditionalRequestConflict", "OperationAborted")


def can_create(system: Any) -> bool:
    """Return whether a file system of fsspec writes objects on the condition that there is none."""
    return not _CREATE.keys().isdisjoint(protocols(system))


class Objects:
    """The objects of a file system of fsspec, by path. Methods raise what the file system raises."""

    def __init__(self, system: Any) -> None:
        """The file system is one for which `can_create` is true."""
        self._system = system
        self._protocol = next(name for name in protocols(system) if name in _CREATE)
        self._create = _CREATE[self._protocol]

    def sizes(self, folder: str, prefix: str = "") -> dict[str, int]:
        """Return the bytes of each object below `folder` whose path there has this prefix. Folders' marks are left out.

        Raises FileNotFoundError when there is no such bucket.
        """
        self._system.invalidate_cache()
        start = f"{folder.removeprefix('/')}/"
        try:
            found = self._system.find(folder, detail=True, **({"prefix": prefix} if prefix else {}))
        except FileNotFoundError:
            if self._protocol == "memory":
                return {}
            raise
        names = {str(name).removeprefix("/").removeprefix(start): info for name, info in found.items()}
        return {
            name: int(info["size"] or 0)
            for name, info in names.items()
            if name.startswith(prefix) and not name.endswith("/") and info["type"] == "file"
        }

    def read(self, path: str, most: int) -> bytes | None:
        """Return an object; None when there is none. Raises ValueError when it has more than `most` bytes."""
        try:
            data = b"".join(self._chunks(path, most + 1))
        except FileNotFoundError:
            return None
        if len(data) > most:
            raise ValueError(f"{path} has more than {most} bytes")
        return data

    def sha256(self, path: str, size: int) -> str:
        """Return the SHA-256 of an object. Of a larger one than `size`, only one byte more is read."""
        digest = hashlib.sha256()
        for chunk in self._chunks(path, size + 1):
            digest.update(chunk)
        return digest.hexdigest()

    def fetch(self, path: str, entry: Entry, into: Path) -> bool:
        """Copy an object to a file of this machine; return whether it is the one of `entry`."""
        digest = hashlib.sha256()
        with into.open("wb") as file:
            for chunk in self._chunks(path, entry.size + 1):
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest() == entry.sha256

    def create(self, path: str, data: bytes) -> bool:
        """Write an object if there is none; return whether it was written.

        When the store's reply to a write is lost, the library sends it again, and this is false for an own object.
        """
        return self._creates(path, lambda: self._system.pipe_file(path, data, **self._create))

    def create_from(self, path: str, file: Path) -> bool:
        """Write a file of this machine as an object if there is none; return whether it was written."""
        return self._creates(path, lambda: self._system.put_file(str(file), path, **self._create))

    def write(self, path: str, data: bytes) -> None:
        """Write an object, in the place of another if there is one."""
        self._system.pipe_file(path, data)

    def send(self, file: Path, path: str) -> None:
        """Write a file of this machine as an object, in the place of another if there is one."""
        self._system.put_file(str(file), path)

    def copy(self, source: str, target: str, size: int) -> bool:
        """Copy an object within the store if there is none at `target`; return whether it was copied."""
        if self._protocol == "s3":
            return self._creates(target, lambda: self._copy_parts(source, target, size))
        if self._protocol == "gs":
            return self._creates(target, lambda: self._rewrite(source, target))
        if self._exists(target):
            return False
        self._system.cp_file(source, target)
        return True

    def remove(self, folder: str) -> None:
        """Remove all objects below `folder`, and the parts of unfinished ones."""
        if self._protocol == "s3":
            bucket, key, _ = self._system.split_path(f"{folder}/")
            listed = self._system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
            for upload in listed.get("Uploads") or ():
                self._abort(bucket, upload["Key"], upload["UploadId"])
        for name in self.sizes(folder):
            self.remove_one(f"{folder}/{name}")

    def remove_one(self, path: str) -> None:
        """Remove an object, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self._system.rm_file(path)

    def _creates(self, path: str, write: Callable[[], object]) -> bool:
        for remaining in reversed(range(_TRIES)):
            try:
                write()
            except FileExistsError:
                return False
            except Exception as error:
                # Some stores return no condition with the error 412, so the library raises another one.
                if self._exists(path):
                    return False
                if not remaining or _code(error) not in _CONFLICTS:
                    raise
                time.sleep(1 / (1 + remaining))
            else:
                return True
        raise AssertionError

    def _exists(self, path: str) -> bool:
        self._system.invalidate_cache()
        return bool(self._system.exists(path))

    def _chunks(self, path: str, most: int) -> Iterator[bytes]:
        self._system.invalidate_cache()
        if 1 < most <= _CHUNK + 1:
            # One request, not two. An empty object has no range, for which libraries raise errors of all kinds.
            data = None
            with contextlib.suppress(Exception):
                data = self._system.cat_file(path, start=0, end=most)
            if data is not None:
                yield data
                return
        with self._system.open(path, "rb", block_size=_CHUNK, cache_type="none") as file:
            while most and (chunk := file.read(min(_CHUNK, most))):
                most -= len(chunk)
                yield chunk

    def _copy_parts(self, source: str, target: str, size: int) -> None:
        bucket, key, _ = self._system.split_path(target)
        copied = dict(zip(("Bucket", "Key"), self._system.split_path(source), strict=False))
        upload = self._system.call_s3("create_multipart_upload", Bucket=bucket, Key=key)["UploadId"]

        def part(number: int) -> dict[str, object]:
            first = (number - 1) * _PART
            made = self._system.call_s3(
                "upload_part_copy",
                Bucket=bucket,
                Key=key,
                UploadId=upload,
                PartNumber=number,
                CopySource=copied,
                CopySourceRange=f"bytes={first}-{min(first + _PART, size) - 1}",
            )
            return {"PartNumber": number, "ETag": made["CopyPartResult"]["ETag"]}

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
                parts = list(pool.map(part, range(1, -(-size // _PART) + 1)))
            self._system.call_s3(
                "complete_multipart_upload",
                Bucket=bucket,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
            )
        except BaseException:
            self._abort(bucket, key, upload)
            raise

    def _abort(self, bucket: str, key: str, upload: str) -> None:
        with contextlib.suppress(Exception):
            self._system.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)

    def _rewrite(self, source: str, target: str) -> None:
        names = [*self._system.split_path(source)[:2], *self._system.split_path(target)[:2]]
        token: dict[str, str] = {}
        while True:
            done = self._system.call(
                "POST",
                "b/{}/o/{}/rewriteTo/b/{}/o/{}",
                *names,
                headers={"Content-Type": "application/json"},
                ifGenerationMatch=0,
                json_out=True,
                **token,
            )
            if done["done"]:
                return
            token = {"rewriteToken": done["rewriteToken"]}


def _code(error: Exception) -> object:
    """Return the code of an error of S3; None for any other."""
    response = getattr(error.__cause__ or error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None
