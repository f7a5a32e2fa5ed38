"""Signs versions with OpenSSF Model Signing: with a private key, with a certificate, or as a Sigstore identity.

    the key's file ──► checked, read once, before anything starts ──► signs the manifest's list of files
                                                                  └─► assets.extra/model.sig, a Sigstore bundle

A password comes from the environment or a terminal. No key, password or token is in an argument, a log or an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfserving.export.errors import ExportError
from tfserving.foundation.extras import missing_for_signatures
from tfserving.foundation.files import read_bounded
from tfserving.foundation.manifest import MANIFEST, SIGNATURE, ManifestError, read_manifest_file
from tfserving.foundation.memory_file import memory_file
from tfserving.foundation.trust.keys import CURVES, check_sigstore_config, shown
from tfserving.foundation.trust.listed import Listed, files_to_sign
from tfserving.foundation.trust.trusted import TrustError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PASSWORD_VARIABLE = "TFSERVING_SIGN_PASSWORD"  # noqa: S105 - the name of a variable
_LARGEST = 1 << 20
_EXPECTED = f"expected one of an elliptic curve: {', '.join(CURVES.values())}"
_MAKE = "`openssl ecparam -name prime256v1 -genkey -noout` makes one"


class SigningError(ExportError):
    """A version can't be signed: the key, the certificate or Sigstore can't be used. It never contains a secret."""


@dataclass(frozen=True)
class Signer:
    """Signs versions, as often as wanted. `who` is for messages.

    `public_key` is the PEM text of the key that alone makes its signatures; None with a certificate or Sigstore.
    """

    who: str
    public_key: str | None
    _config: Any

    def sign(self, folder: Path, scratch: Path) -> None:
        """Sign the files that the manifest of the version in `folder` lists; the signature appears whole.

        `scratch` is a folder on the same disk. Raises SigningError, or OSError.
        """
        try:
            manifest = read_manifest_file(folder / MANIFEST)
            listed = Listed(files_to_sign(manifest), f"{manifest.model()}/{manifest.version()}")
        except ManifestError as error:
            raise SigningError(f"{folder} can't be signed: {error}") from None
        made = scratch / "model.sig"
        with _sigstore_errors():
            self._config.set_hashing_config(listed).sign(folder, made)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(folder / SIGNATURE)


def key_signer(
    key: Path, certificate: Path | None = None, chain: tuple[Path, ...] = (), models: Path | None = None
) -> Signer:
    """Return the signer with the private key in the PEM file `key`, and its certificate if there is one.

    `models` is the folder of all versions, where no key may lie. Raises SigningError.
    """
    _require()
    found, password = _private_key(key, models)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from model_signing import signing

    pem = found.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    who = f"the key {key} (fingerprint {hashlib.sha256(pem).hexdigest()[:16]})"
    config = _config(signing)
    if certificate is None:
        return Signer(who, pem.decode(), config.use_elliptic_key_signer(private_key=key, password=password))
    subject = _certificate(certificate, chain)
    try:
        with _plain(found, key, password) as readable:
            config.use_certificate_signer(
                private_key=readable, signing_certificate=certificate, certificate_chain=chain
            )
    except ValueError:
        raise SigningError(f"the certificate {certificate} is not that of the key {key}") from None
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
            f"Sigstore signs nothing: {shown(str(error).partition(chr(10))[0]) or type(error).__name__}"
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


def _private_key(path: Path, models: Path | None) -> tuple[EllipticCurvePrivateKey, bytes | None]:
    """Return the private key in a PEM file, and its password if it has one. Raises SigningError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    _check_place(path, models)
    if b"PRIVATE KEY-----" not in data:
        what = "a public key" if b"PUBLIC KEY-----" in data else "no PEM file"
        raise SigningError(f"{path} is {what}, expected a private key. {_MAKE}")
    password = None
    try:
        try:
            key = load_pem_private_key(data, None)
        except TypeError:
            password = _password(path)
            key = load_pem_private_key(data, password)
    except (ValueError, UnsupportedAlgorithm):
        # The library's text may show what it read.
        reason = "its password is wrong, or it is damaged" if password else "it is damaged"
        raise SigningError(f"the private key {path} can't be read: {reason}") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        kind = type(key).__name__.removesuffix("PrivateKey").lstrip("_")
        raise SigningError(f"{path} is a private key of the kind {kind}, {_EXPECTED}. {_MAKE}")
    if key.curve.name not in CURVES:
        raise SigningError(f"{path} is a private key of the curve {key.curve.name}, {_EXPECTED}. {_MAKE}")
    return key, password


def _check_place(path: Path, models: Path | None) -> None:
    """Raise SigningError for a private key that others can read, or that would be published with the versions."""
    found = path.stat()
    # As ssh does: for a file of another user, such as a mounted secret, its owner is responsible.
    if found.st_uid == os.getuid() and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(found.st_mode)
        raise SigningError(f"others can read the private key {path}: its mode is {mode:04o}. Run `chmod 600 {path}`")
    if models and path.resolve().is_relative_to(models.resolve()):
        raise SigningError(
            f"the private key {path} is in the folder of the versions, {models}, from where it would be published. "
            "Move it elsewhere"
        )


def _password(path: Path) -> bytes:
    """Return the password of a private key, from the environment or from a terminal."""
    # The processes that this one starts, and builders, don't see it.
    if found := os.environ.pop(PASSWORD_VARIABLE, ""):
        return found.encode()
    if not sys.stdin.isatty():
        raise SigningError(
            f"the private key {path} is encrypted. Set its password in the environment variable {PASSWORD_VARIABLE}"
        )
    import click

    prompted: str = click.prompt(f"Password of {path}", hide_input=True, err=True)
    return prompted.encode()


def _certificate(path: Path, chain: tuple[Path, ...]) -> str:
    """Return the subject of the certificate in a PEM file, after checking it and its chain. Raises SigningError."""
    from cryptography import x509

    for one in (path, *chain):
        data = _read(one)
        if b"PRIVATE KEY-----" in data:
            raise SigningError(f"{one} has a private key, expected certificates only, which are in every signature")
        try:
            found = x509.load_pem_x509_certificates(data)
        except ValueError:
            raise SigningError(f"{one} is no PEM file of certificates") from None
        if one == path:
            certificate, *more = found
            if more:
                raise SigningError(f"{one} has {len(found)} certificates, expected one. Name the others in `chain`")
    try:
        signs = certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        signs = False
    with contextlib.suppress(x509.ExtensionNotFound):
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        signs = signs or x509.oid.ExtendedKeyUsageOID.CODE_SIGNING in usage
    if not signs:
        raise SigningError(
            f"the certificate {path} is not for signing: it has neither the key usage digitalSignature nor the "
            "extended key usage codeSigning"
        )
    return shown(certificate.subject.rfc4514_string())


@contextlib.contextmanager
def _plain(key: EllipticCurvePrivateKey, path: Path, password: bytes | None) -> Iterator[Path]:
    """The path of the private key without a password: with a certificate, the library reads no other."""
    if password is None:
        yield path
        return
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    with memory_file() as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.seek(0)
        yield Path(f"/dev/fd/{file.fileno()}")


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, _LARGEST)
    except OSError as error:
        raise SigningError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise SigningError(f"{path}: {error}") from None
