"""Signs versions with OpenSSF Model Signing: with a private key, with a certificate, or as a Sigstore identity.

    the key's file ──► checked, read once, before anything starts ──► signs the manifest's list of files
                                                                  └─► assets.extra/model.sig, a Sigstore bundle

`tfserving.export.private_keys` reads the keys. No key, password or token is in an argument, a log or an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfserving.export.private_keys import SigningError, check_certificate, read_private_key, without_password
from tfserving.foundation.extras import missing_for_signatures
from tfserving.foundation.manifest import MANIFEST, SIGNATURE, ManifestError, read_manifest_file
from tfserving.foundation.trust import Trust, TrustError, accept
from tfserving.foundation.trust.keys import check_sigstore_config, shown
from tfserving.foundation.trust.listed import Listed, files_to_sign
from tfserving.foundation.version_files import VersionError


@dataclass(frozen=True)
class Signer:
    """Signs versions, as often as wanted. `who` is for messages.

    `public_key` is the PEM text of the key that alone makes its signatures; None with a certificate or Sigstore.
    """

    who: str
    public_key: str | None
    _config: Any = field(repr=False)

    def sign(self, folder: Path, scratch: Path, digest: str | None = None) -> None:
        """Sign the files that the manifest of the version in `folder` lists; the signature appears whole.

        `scratch` is a folder on the same disk, `digest` that of the manifest, if the version was checked before.
        Raises SigningError, or OSError.
        """
        try:
            manifest = read_manifest_file(folder / MANIFEST)
            if manifest.digest() != (digest or manifest.digest()):
                raise SigningError(f"{folder} was changed while it was being signed")
            listed = Listed(files_to_sign(manifest), f"{manifest.model()}/{manifest.version()}")
        except ManifestError as error:
            raise SigningError(f"{folder} can't be signed: {error}") from None
        made = scratch / "model.sig"
        with _sigstore_errors():
            self._config.set_hashing_config(listed).sign(folder, made)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(folder / SIGNATURE)


def why_not_signed(folder: Path, signer: Signer, trust: Trust | None, scratch: Path) -> str | None:
    """Return why the version in `folder` does not count as one that `signer` signed; None when it does.

    With `trust` anyone who is trusted may have signed it. Without, only the signature of a key can be verified.
    `scratch` is a folder for a file.
    """
    verifies = trust
    if verifies is None:
        if signer.public_key is None:
            return "without `trust` in models.yaml its signature can't be verified"
        key = scratch / "signer.pub"
        key.write_text(signer.public_key)
        verifies = Trust(keys=(key,))
    try:
        found = read_manifest_file(folder / MANIFEST)
        accept(folder, found.model(), found.version(), verifies)
    except (ManifestError, VersionError) as error:
        return str(error) if trust else f"it is not signed by {signer.who}"
    return None


def fingerprint_of(public_key: str) -> str:
    """Return the SHA-256 of a public key's PEM text, by which signatures name it."""
    return hashlib.sha256(public_key.encode()).hexdigest()


def key_signer(
    key: Path, certificate: Path | None = None, chain: tuple[Path, ...] = (), models: Path | None = None
) -> Signer:
    """Return the signer with the private key in the PEM file `key`, and its certificate if there is one.

    `models` is the folder of all versions, where no key may lie. Raises SigningError.
    """
    _require()
    found, password = read_private_key(key, models)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from model_signing import signing

    pem = found.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    who = f"the key {key} (fingerprint {fingerprint_of(pem.decode())[:16]})"
    config = _config(signing)
    if certificate is None:
        return Signer(who, pem.decode(), config.use_elliptic_key_signer(private_key=key, password=password))
    subject = check_certificate(certificate, chain, found)
    with without_password(found, key, password) as readable:
        # The library fails without a chain.
        more = chain or (certificate,)
        config.use_certificate_signer(private_key=readable, signing_certificate=certificate, certificate_chain=more)
    return Signer(f"the certificate of {subject}", None, config)


def sigstore_signer(sigstore_config: Path | None = None) -> Signer:
    """Return the signer with the identity that Sigstore certifies: the job's in CI, else one from the browser.

    `sigstore_config` is the client trust configuration of an instance of one's own. Raises SigningError, such as
    without a network.
    """
    _require()
    from model_signing import signing
    from sigstore.oidc import detect_credential

    if sigstore_config:
        try:
            check_sigstore_config(sigstore_config)
        except TrustError as error:
            raise SigningError(str(error)) from None
    config = _config(signing)
    with _sigstore_errors():
        if not sys.stdin.isatty() and detect_credential() is None:
            raise SigningError(
                "this job has no identity that Sigstore knows, and there is no terminal from which to log in. In CI, "
                "let the job have an identity token: docs/provenance.md"
            )
        config.use_sigstore_signer(use_ambient_credentials=True, trust_config=sigstore_config)
    return Signer("an identity of Sigstore", None, config)


@contextlib.contextmanager
def _sigstore_errors() -> Iterator[None]:
    """Make errors of Sigstore, and of its connections, a SigningError of one line."""
    try:
        # It prints a link, and reads a code.
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (SigningError, OSError) as error:
        if isinstance(error, SigningError) or not _of_connection(error):
            raise
        raise SigningError(
            f"Sigstore can't be reached: {type(error).__name__}. Signing with it needs a network"
        ) from None
    except Exception as error:
        from sigstore.errors import NetworkError, TUFError

        # The causes may have a token in them.
        if isinstance(error, (NetworkError, TUFError)):
            what = f": {shown(str(error))}" if str(error) else ""
            raise SigningError(f"Sigstore can't be reached{what}. Signing with it needs a network") from None
        raise SigningError(
            f"Sigstore made no signature: {shown(str(error).partition(chr(10))[0]) or type(error).__name__}"
        ) from None


def _of_connection(error: OSError) -> bool:
    """Whether an error is of a connection: those of `requests` are OSErrors, too."""
    return type(error).__module__.partition(".")[0] in {"requests", "urllib3"} or isinstance(error, ConnectionError)


def _config(signing: Any) -> Any:
    """Return a new configuration of the library, which has no types."""
    return signing.Config()


def _require() -> None:
    if missing := missing_for_signatures("sign"):
        raise SigningError(missing)
