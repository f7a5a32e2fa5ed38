"""A version's files as one compressed tar: the same bytes for the same files, and unpacked without trust.

Nothing is written but the plain files that the version's manifest lists, its manifest and its signature, each with the
size that is known before. So neither a link nor a path out of the folder nor a compressed bomb has an effect.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from tfserving.export.oci.errors import RegistryError
from tfserving.export.oci.layout import Descriptor
from tfserving.foundation.version_files import VersionError

# Floats of weights get 7% smaller, and packing them takes 17 times as long. `oras pull` unpacks gzip only, though.
_LEVEL = 0
_CHUNK = 1 << 20
# Of one read, which a header's size decides: names of S3's length need 2 KiB.
_LARGEST_HEADER = 1 << 20
# A member: its header, a longer name, and what fills a block. At the end there are up to 20 blocks.
_MEMBER, _END = 8 << 10, 1 << 20


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


def pack(
    folder: Path, files: Mapping[str, tuple[int, str]], into: IO[bytes], progress: Callable[[int], None]
) -> tuple[Descriptor, str]:
    """Write the version in `folder` to `into`; return the descriptor of what was written, and the tar's SHA-256.

    `files` has the size in bytes and the SHA-256 of each file. `progress` is called with the number of bytes of files.
    Raises VersionError when a file was changed meanwhile, and OSError.
    """
    written = _Hashing(into)
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=written, mtime=0) as compressed:
        plain = _Hashing(compressed)
        with tarfile.TarFile(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_CHUNK) as tar:  # type: ignore[arg-type]
            for name in sorted(_folders(files)):
                member = tarfile.TarInfo(name)
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            done = 0
            for name, (size, sha256) in sorted(files.items()):
                member = tarfile.TarInfo(name)
                member.size, member.mode = size, 0o644
                with (folder / name).open("rb") as file:
                    reader = _FileReader(file, size, partial(_shifted, progress, done))
                    tar.addfile(member, reader)  # type: ignore[arg-type]
                    if reader.missing or file.read(1) or reader.sha256() != sha256:
                        raise VersionError(f"{folder / name} was changed meanwhile")
                done += size
    return Descriptor(f"sha256:{written.sha256()}", written.size), f"sha256:{plain.sha256()}"


def _shifted(progress: Callable[[int], None], before: int, size: int) -> None:
    progress(before + size)


def unpack(source: _Source, sizes: Mapping[str, int], diff_id: str, into: Path, where: str) -> None:
    """Write the files of a compressed tar, which must be those of `sizes` with these numbers of bytes, to a folder.

    Raises RegistryError when it has anything else or the SHA-256 of the tar isn't `diff_id`, and OSError when a file
    can't be written.
    """
    most = sum(sizes.values()) + _MEMBER * 2 * (len(sizes) + len(_folders(sizes))) + _END
    plain = _Forward(_decompressed(source), most, where)
    try:
        with tarfile.TarFile(fileobj=plain, mode="r") as tar:
            _unpack(tar, dict(sizes), into, where)
        plain.finish()
    except (RegistryError, _WriteError):
        raise
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError) as error:
        raise RegistryError(f"{where}: its layer is no compressed tar: {error}") from None
    except RecursionError:
        raise RegistryError(f"{where}: its layer has headers of headers without end") from None
    if (found := plain.digest()) != diff_id:
        raise RegistryError(f"{where}: the tar of its layer has the digest {found}, its config says {diff_id}")


class _WriteError(OSError):
    """A file can't be written."""


def _unpack(tar: tarfile.TarFile, missing: dict[str, int], into: Path, where: str) -> None:
    folders = _folders(missing)
    for member in tar:
        name = member.name
        if member.type == tarfile.DIRTYPE and name in folders:
            folders.discard(name)
            continue
        if name not in missing:
            raise RegistryError(
                f"{where}: its layer has {ascii(name)[:200]}, which the version's manifest does not list"
            )
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
            raise RegistryError(f"{where}: its layer has {name} as something else than a plain file")
        if member.size != (size := missing.pop(name)):
            raise RegistryError(f"{where}: its layer has {name} with {member.size} bytes, expected {size}")
        content = tar.extractfile(member)
        assert content is not None
        _write(content, into / name)
    if missing:
        raise RegistryError(f"{where}: its layer has no {min(missing)}")


def _write(content: IO[bytes], path: Path) -> None:
    """Write a file. A fault of the disk is kept apart from one of the source, which may be an OSError too."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    except OSError as error:
        raise _WriteError(error.errno, error.strerror, str(path)) from None
    with file:
        while chunk := content.read(_CHUNK):
            try:
                file.write(chunk)
            except OSError as error:
                raise _WriteError(error.errno, error.strerror, str(path)) from None


def _folders(files: Mapping[str, object]) -> set[str]:
    return {str(folder) for name in files for folder in PurePosixPath(name).parents} - {"."}


def _decompressed(source: _Source) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=source, mode="rb")  # type: ignore[call-overload,no-any-return]


class _Hashing:
    """Passes bytes on, and counts and hashes them."""

    def __init__(self, into: Any) -> None:
        self._into, self._hash, self.size = into, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        self._into.write(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._into.flush()

    def sha256(self) -> str:
        return self._hash.hexdigest()


class _FileReader:
    """The bytes of a file on their way into the tar, hashed."""

    def __init__(self, file: IO[bytes], size: int, progress: Callable[[int], None]) -> None:
        self._file, self._left, self._progress = file, size, progress
        self._size, self._hash, self.missing = size, hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        missing = size - len(data)
        self._left -= size
        self._hash.update(data)
        self._progress(self._size - self._left)
        # The tar's member has the size that it was announced with, and then it is found to be another.
        self.missing += missing
        return data + bytes(missing)

    def sha256(self) -> str:
        return self._hash.hexdigest()


class _Forward(io.RawIOBase):
    """The tar as it is decompressed: no more than `most` bytes, in parts of a bounded size, and never backwards."""

    def __init__(self, source: gzip.GzipFile, most: int, where: str) -> None:
        self._source, self._most, self._where = source, most, where
        self._hash, self._at = hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer only at the end. Raises RegistryError for too many."""
        if not 0 <= size <= _LARGEST_HEADER:
            raise RegistryError(f"{self._where}: its layer has a header of more than {_LARGEST_HEADER} bytes")
        parts = []
        while size > 0 and (chunk := self._source.read(size)):
            size -= len(chunk)
            self._at += len(chunk)
            if self._at > self._most:
                raise RegistryError(f"{self._where}: its layer unpacks to more than the version's manifest lists")
            self._hash.update(chunk)
            parts.append(chunk)
        return b"".join(parts)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Skip to a position. Raises RegistryError for one that is passed."""
        if whence != io.SEEK_SET or offset < self._at:
            raise RegistryError(f"{self._where}: its layer is no tar that can be read from the first byte to the last")
        while self._at < offset and self.read(min(_CHUNK, offset - self._at)):
            pass
        return self._at

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._at

    def finish(self) -> None:
        """Read the rest."""
        while self.read(_CHUNK):
            pass

    def digest(self) -> str:
        """Return the digest of all that was read."""
        return f"sha256:{self._hash.hexdigest()}"
