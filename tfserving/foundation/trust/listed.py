"""The files that a signature lists, as the library of OpenSSF Model Signing takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfserving.foundation.manifest import MANIFEST, SIGNATURE, Manifest


def files_to_sign(manifest: Manifest) -> dict[str, str]:
    """Return the SHA-256 of every file of a version but its signature. Raises ManifestError."""
    return {name: entry.sha256 for name, entry in manifest.files().items()} | {MANIFEST: manifest.own_sha256()}


class Listed:
    """Stands for the library's `model_signing.hashing.Config`: it returns known hashes, and reads no file.

    `model` is the name of the signature's subject, which is only for readers. `used` becomes true when the library
    takes the hashes: when it verifies, it has found that the signature is by the key by then.
    """

    def __init__(self, files: Mapping[str, str], model: str) -> None:
        self._files, self._model = files, model
        self.used = False

    def hash(self, _model_path: object, **_only: object) -> Any:
        """Return the library's list of files."""
        from model_signing import manifest
        from model_signing._hashing.hashing import Digest

        self.used = True
        # The signature lies in the folder that it covers: other programs read here that they have to leave it out.
        how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [SIGNATURE]}
        serialization = manifest.SerializationType.from_args(how)
        items = [
            serialization.new_item(name, Digest("sha256", bytes.fromhex(sha256)))
            for name, sha256 in self._files.items()
        ]
        return manifest.Manifest(self._model, items, serialization)

    def add_ignored_paths(self, **_paths: object) -> None:
        """Ignore no path: a signature must list every file."""
