"""Signed versions: keys of a test's own, and versions whose files are small or from a real export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE

FILES = {SAVED_MODEL: b"graph", "variables/variables.index": b"index", "variables/variables.data": b"weights"}


def make_key(folder: Path, name: str) -> Path:
    """A private key as a PEM file; the public one is beside it, with the suffix .pub."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private


def sign(version: Path, key: Path) -> None:
    """Signs all files of a version."""
    from model_signing import hashing, signing

    signature = version / SIGNATURE
    # The library has no types.
    hashed: Any = hashing.Config
    files = hashed().set_ignored_paths(paths=[signature], ignore_git_paths=False)
    signer: Any = signing.Config
    signer().set_hashing_config(files).use_elliptic_key_signer(private_key=key).sign(version, signature)


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
    text = json.dumps({**content, "files": listed, "digest": ""})
    digest = hashlib.sha256(text.encode()).hexdigest()
    (version / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
    (version / MANIFEST).write_text(text.replace('"digest": ""', f'"digest": "{digest}"'))
    return digest


def write_version(version: Path, key: Path | None, files: Mapping[str, bytes] = FILES) -> str:
    """Writes a version of these files, signed with `key`; returns the digest of its manifest."""
    for name, data in files.items():
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        (version / name).write_bytes(data)
    digest = write_manifest(version)
    if key:
        sign(version, key)
    return digest
