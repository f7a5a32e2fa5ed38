"""The one way in which a version is accepted: its files, its name and number, its signature."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfserving.foundation.manifest import Manifest, ManifestError
from tfserving.foundation.trust.keys import shown
from tfserving.foundation.trust.signature import verify_signature
from tfserving.foundation.trust.trusted import Trust
from tfserving.foundation.version_files import VersionError, judge


@dataclass(frozen=True)
class Accepted:
    """A version that was judged: the digest of its manifest, and who signed it; None without `trust`."""

    manifest: Manifest
    digest: str
    signer: str | None


def accept(folder: Path, model: str, version: int, trust: Trust | None) -> Accepted:
    """Return the version in `folder`, which must be `version` of `model`, after judging every file.

    With `trust` one of its keys, certificates or identities must have signed all files. Only a folder that nobody else
    can write to stays as it was judged: copy a version there first. Raises VersionError, or TrustError.
    """
    manifest = judge(folder)
    try:
        named, digest = (manifest.model(), manifest.version()), manifest.digest()
    except ManifestError as error:
        raise VersionError(f"{folder} has no valid manifest: {error}") from None
    if named != (model, version):
        found = f"version {named[1]} of {shown(named[0])}"
        raise VersionError(f"{folder} is {found}, expected version {version} of {model}")
    return Accepted(manifest, digest, verify_signature(folder, manifest, trust) if trust else None)
