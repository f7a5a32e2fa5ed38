"""Comparing a version on disk with its manifest, which lists the SHA-256 of every file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from tfserving.foundation.golden import MANIFEST, SAVED_MODEL
from tfserving.foundation.manifest import ManifestError, read_manifest_file


class ProofError(Exception):
    """A version differs from its manifest; the text names the file."""


def prove(version_folder: Path) -> str:
    """Compare all files of a version with its manifest and return the manifest's digest. Raises ProofError."""
    try:
        manifest = read_manifest_file(version_folder / MANIFEST)
        digest, files = manifest.digest(), manifest.files()
    except ManifestError as error:
        raise ProofError(f"{version_folder} has no valid manifest: {error}") from None
    if SAVED_MODEL not in files:
        raise ProofError(f"{version_folder / MANIFEST} does not list {SAVED_MODEL}")
    for name, entry in files.items():
        path = version_folder / name
        try:
            if not path.exists() or path.is_file():
                with path.open("rb") as file:
                    found = _sha256(file)
            else:
                raise ProofError(f"{path} is in the manifest but is not a file")
        except OSError as error:
            raise ProofError(f"{path} is in the manifest but can't be read: {error.strerror}") from None
        if found != entry.sha256:
            raise ProofError(f"{path} differs from the manifest: got SHA-256 {found}, expected {entry.sha256}")
    return digest


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
