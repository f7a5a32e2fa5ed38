"""A version that is published: what was judged is what is sent."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfserving.export.errors import ExportError
from tfserving.foundation.files import read_bounded
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE, Entry, Manifest, ManifestError
from tfserving.foundation.trust import Trust, accept
from tfserving.foundation.version_files import BESIDE, VersionError

# The number of differences that an error lists.
_SOME = 5
NEVER = "A version is never overwritten: publish a new number."


class PublishError(ExportError):
    """A version could not be published. The destination has no part of it that a server would load."""


@dataclass(frozen=True)
class Outgoing:
    """A version of this machine that was accepted, with the bytes of its manifest and signature at that time.

    `files` are those that the manifest lists, saved_model.pb last. `signer` is None without `trust`.
    """

    folder: Path
    model: str
    version: int
    trust: Trust | None
    manifest: Manifest
    data: bytes
    digest: str
    files: dict[str, Entry]
    signature: bytes | None
    signer: str | None

    @property
    def count(self) -> int:
        """The number of all files."""
        return len(self.files) + len(self.beside)

    @property
    def beside(self) -> dict[str, bytes]:
        """The files that the manifest doesn't list."""
        return {MANIFEST: self.data} | ({SIGNATURE: self.signature} if self.signature is not None else {})

    def accept_signature(self, signature: bytes | None, where: str) -> None:
        """Raise PublishError when `trust` doesn't accept this version with the signature in `where`."""
        if self.trust is None:
            return
        with tempfile.TemporaryDirectory(prefix="tfserving-publish-") as name:
            copy = Path(name)
            for file in self.files:
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                # A link of the same file takes no space, where the file system has them.
                try:
                    os.link(self.folder / file, copy / file)
                except OSError:
                    shutil.copyfile(self.folder / file, copy / file)
            (copy / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
            (copy / MANIFEST).write_bytes(self.data)
            if signature is not None:
                (copy / SIGNATURE).write_bytes(signature)
            try:
                accept(copy, self.model, self.version, self.trust)
            except VersionError as error:
                raise PublishError(str(error).replace(str(copy), where)) from None


def outgoing(folder: Path, model: str, version: int, trust: Trust | None) -> Outgoing:
    """Return the version in `folder` after judging it. Raises PublishError when it isn't intact, or not trusted."""
    with as_publish_error():
        data, signature = _beside(folder, MANIFEST), _beside(folder, SIGNATURE)
        accepted = accept(folder, model, version, trust)
        if data is None or Manifest(data, str(folder / MANIFEST)).digest() != accepted.digest:
            raise PublishError(f"{folder} was changed while it was read")
        files = accepted.manifest.files()
    last = {name: files[name] for name in sorted(files, key=lambda name: (name == SAVED_MODEL, name))}
    return Outgoing(
        folder, model, version, trust, accepted.manifest, data, accepted.digest, last, signature, accepted.signer
    )


@contextlib.contextmanager
def as_publish_error() -> Iterator[None]:
    """Turn what is wrong with a version into a PublishError."""
    try:
        yield
    except (VersionError, ManifestError) as error:
        raise PublishError(str(error)) from None


def key_of(manifest: bytes) -> str:
    """Return what names the uploads of a version: the SHA-256 of its manifest, which names the version too."""
    return hashlib.sha256(manifest).hexdigest()


def differs(where: str, problems: list[str]) -> PublishError:
    """Return the error of a place that isn't what its manifest lists."""
    more = [f"and {len(problems) - _SOME} more"] if len(problems) > _SOME else []
    return PublishError("\n  ".join([f"{where} differs from its manifest. {NEVER}", *problems[:_SOME], *more]))


def is_another(where: str, digest: str, own: Outgoing) -> PublishError:
    """Return the error of a number that another version has."""
    return PublishError(
        f"{where} is another version, of digest {digest}, and was not changed. {own.folder} has digest {own.digest}. "
        f"{NEVER}"
    )


def _beside(folder: Path, name: str) -> bytes | None:
    try:
        return read_bounded(folder / name, BESIDE[name])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PublishError(f"{folder / name} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise PublishError(f"{folder / name}: {error}") from None
