"""Comparing a version on disk with its manifest, which lists what every file of it is to be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tfserving.foundation.golden import MANIFEST


class ProofError(Exception):
    """A version isn't what its manifest says; the text names the file."""


def prove(version_folder: Path) -> str:
    """The digest of a version's manifest, after all that it lists was compared. Raises ProofError."""
    try:
        manifest: Mapping[str, Any] = json.loads((version_folder / MANIFEST).read_bytes())
        digest, files = str(manifest["digest"]), manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        raise ProofError(f"{version_folder} has no manifest to prove it: {error}") from None
    for name, said in files.items():
        path = version_folder / name
        try:
            with path.open("rb") as file:
                found = _sha256(file)
        except OSError as error:
            raise ProofError(f"{path}: {error.strerror}, and the manifest lists it") from None
        if found != said["sha256"]:
            raise ProofError(f"{path} is not what the manifest says: its SHA-256 is {found}, not {said['sha256']}")
    return digest


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
