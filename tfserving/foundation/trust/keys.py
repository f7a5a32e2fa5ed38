"""The files of public keys and certificates: read with clear errors, before anything starts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfserving.foundation.extras import missing_for_signatures
from tfserving.foundation.files import read_bounded
from tfserving.foundation.trust.trusted import Trust, TrustError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

# A PEM file of a key has some 200 bytes, one of a root's certificate some 1,000.
_LARGEST = 1 << 20
# Characters of a text in an error.
_LONGEST = 200
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_EXPECTED = f"expected one of an elliptic curve: {', '.join(CURVES.values())}"


@dataclass(frozen=True)
class PublicKey:
    """A public key in a file, and its fingerprint: the SHA-256 of its PEM text, as signatures have it."""

    path: Path
    fingerprint: str

    def __str__(self) -> str:
        return f"the key {self.path} (fingerprint {self.fingerprint[:16]})"


def check_trust(trust: Trust) -> None:
    """Raise TrustError when signatures can't be verified here, or a file of `trust` isn't what it should be.

    Commands call it before anything starts. It needs no network.
    """
    if missing := missing_for_signatures("trust"):
        raise TrustError(missing)
    for path in trust.keys:
        read_public_key(path)
    for path in trust.certificates:
        read_roots(path)
    if trust.sigstore_config:
        check_sigstore_config(trust.sigstore_config)


def read_public_key(path: Path) -> PublicKey:
    """Return the public key in the PEM file `path`. Raises TrustError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    data = _public(path, f"`openssl pkey -in {path} -pubout` prints its public key, which is needed here")
    if b"-----BEGIN CERTIFICATE-----" in data:
        raise TrustError(f"{path} is a certificate, expected a public key. Name a root's certificate in `certificates`")
    if (several := data.count(b"-----BEGIN ")) > 1:
        raise TrustError(f"{path} has {several} keys, expected one. Name a file for each key")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise TrustError(f"{path} is no PEM file of a public key, {_EXPECTED}") from None
    if not isinstance(key, EllipticCurvePublicKey):
        kind = type(key).__name__.removesuffix("PublicKey").lstrip("_")
        raise TrustError(f"{path} is a public key of the kind {kind}, {_EXPECTED}")
    if key.curve.name not in CURVES:
        raise TrustError(f"{path} is a public key of the curve {key.curve.name}, {_EXPECTED}")
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(path, hashlib.sha256(pem).hexdigest())


def read_roots(path: Path) -> list[Certificate]:
    """Return the certificates in the PEM file `path`, which must all be roots. Raises TrustError."""
    from cryptography.x509 import load_pem_x509_certificates

    data = _public(path, "The root's certificate alone is needed here")
    try:
        found = load_pem_x509_certificates(data)
    except ValueError:
        raise TrustError(f"{path} is no PEM file of certificates") from None
    for one in found:
        if one.issuer != one.subject:
            raise TrustError(
                f"{path} has the certificate of {shown(one.subject.rfc4514_string())}, which is not self-signed. Name "
                f"the root that it comes from: {shown(one.issuer.rfc4514_string())}"
            )
    return found


def check_sigstore_config(path: Path) -> None:
    """Raise TrustError when `path` isn't the client trust configuration of a Sigstore instance."""
    from sigstore.models import ClientTrustConfig

    data = _public(path, "A client trust configuration of Sigstore has none")
    try:
        ClientTrustConfig.from_json(data.decode())
    except Exception as error:
        reason = shown(str(error).partition("\n")[0])
        raise TrustError(f"{path} is no client trust configuration of Sigstore: {reason}") from None


def shown(text: str) -> str:
    """Return text from a file that others write, for an error: one line, not too long."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _public(path: Path, remedy: str) -> bytes:
    """Return the contents of a file with public keys or certificates only. Raises TrustError."""
    try:
        data = read_bounded(path, _LARGEST)
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise TrustError(f"{path}: {error}") from None
    if b"PRIVATE KEY-----" in data:
        raise TrustError(f"{path} has a private key, which only the signer may have. {remedy}")
    return data
