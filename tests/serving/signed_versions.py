"""Signed versions: keys of a test's own, and versions whose files are small or from a real export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.manifests import sealed
from tests.signed import make_key as pair
from tests.signed import sign_with
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE

FILES = {SAVED_MODEL: b"graph", "variables/variables.index": b"index", "variables/variables.data": b"weights"}


def make_key(folder: Path, name: str) -> Path:
    """A private key as a PEM file; the public one is beside it, with the suffix .pub."""
    return pair(folder, name)[0]


def write_manifest(version: Path, model: str = "", number: int = 0, **others: Any) -> str:
    """Writes the manifest of the files that are there, as an export would; returns its digest."""
    listed = {
        path.relative_to(version).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        }
        for path in sorted(version.rglob("*"))
        if path.is_file() and path not in (version / MANIFEST, version / SIGNATURE)
    }
    content = {"model": model or version.parent.name, "version": number or int(version.name), **others}
    text = sealed({**content, "files": listed})
    (version / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
    (version / MANIFEST).write_text(text)
    return str(json.loads(text)["digest"])


def write_version(version: Path, key: Path | None, files: Mapping[str, bytes] = FILES) -> str:
    """Writes a version of these files, signed with `key`; returns the digest of its manifest."""
    for name, data in files.items():
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        (version / name).write_bytes(data)
    digest = write_manifest(version)
    if key:
        sign_with(version, key)
    return digest
