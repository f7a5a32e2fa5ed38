"""Comparing a version on disk with its manifest, which lists what every file of it is to be."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from tfserving.foundation.golden import MANIFEST, SAVED_MODEL
from tfserving.foundation.manifest import ManifestError, read_manifest_file


class ProofError(Exception):
    """A version isn't what its manifest says; the text names the file."""


def prove(version_folder: Path) -> str:
    """The digest of a version's manifest, after all that it lists was compared. Raises ProofError."""
    try:
        manifest = read_manifest_file(version_folder / MANIFEST)
        digest, files = manifest.digest(), manifest.files()
    except ManifestError as error:
        raise ProofError(f"{version_folder} has no manifest to prove it: {error}") from None
    if SAVED_MODEL not in files:
        raise ProofError(f"{version_folder / MANIFEST} lists no {SAVED_MODEL}, so it proves nothing")
    for name, entry in files.items():
        path = version_folder / name
        try:
            if not path.exists() or path.is_file():
                with path.open("rb") as file:
                    found = _sha256(file)
            else:
                raise ProofError(f"{path} is not a file, and the manifest lists it")
        except OSError as error:
            raise ProofError(f"{path}: {error.strerror}, and the manifest lists it") from None
        if found != entry.sha256:
            raise ProofError(f"{path} is not what the manifest says: its SHA-256 is {found}, not {entry.sha256}")
    return digest


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
