"""Whose versions are trusted: signatures of OpenSSF Model Signing, verified by its library.

    manifest lists every file ──► signature lists the same files ──► signed by a trusted key, certificate or identity
                              └─► the manifest names this model and this version

A manifest proves that nothing was changed by accident. Whoever can write to a version's folder can write a new
manifest, but not a new signature. The signature covers the manifest, so it covers the model's name and the version's
number: a version that was copied over another one is not accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserving.foundation.manifest import SIGNATURE, Manifest, ManifestError
from tfserving.foundation.version_files import VersionError, judge


class TrustError(VersionError):
    """A version is not signed by anyone who is trusted. The text names who is, and who signed it."""


@dataclass(frozen=True)
class Identity:
    """Whom Sigstore certified: an e-mail address or a workflow's URL, and the issuer of the identity's token."""

    identity: str
    issuer: str


@dataclass(frozen=True)
class Trust:
    """Whose signatures are accepted: any one of these is enough.

    `keys` are PEM files of public keys (elliptic curves P-256, P-384, P-521), `certificates` of roots.
    """

    keys: tuple[Path, ...] = ()
    certificates: tuple[Path, ...] = ()
    identities: tuple[Identity, ...] = ()


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
        raise VersionError(f"{folder} is version {named[1]} of {named[0]}, expected version {version} of {model}")
    return Accepted(manifest, digest, verify_signature(folder, trust) if trust else None)


def verify_signature(folder: Path, trust: Trust) -> str:
    """Return who signed the version in `folder`, after comparing every file with the signature. Raises TrustError."""
    from model_signing import verifying

    reasons = []
    for key in trust.keys:
        try:
            config: Any = verifying.Config  # The library has no types.
            config().use_elliptic_key_verifier(public_key=key).verify(folder, folder / SIGNATURE)
        except Exception as error:
            reasons.append(f"{key}: {error}")
        else:
            return f"the key {key}"
    raise TrustError(f"{folder} is not signed by a trusted key: {'; '.join(reasons)}")
