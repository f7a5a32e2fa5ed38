"""The signer's files: private keys and certificates, checked before anything starts.

A password comes from the environment or a terminal. No key and no password is in an argument, a log or an error.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tfserving.export.errors import ExportError
from tfserving.foundation.files import read_bounded
from tfserving.foundation.memory_file import memory_file
from tfserving.foundation.trust.keys import CURVES, shown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PASSWORD_VARIABLE = "TFSERVING_SIGN_PASSWORD"  # noqa: S105 - the name of a variable
_LARGEST = 1 << 20
_EXPECTED = f"expected one of an elliptic curve: {', '.join(CURVES.values())}"
_MAKE = "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY` makes one"


class SigningError(ExportError):
    """A version can't be signed: the key, the certificate or Sigstore can't be used. It never contains a secret."""


def read_private_key(path: Path, models: Path | None) -> tuple[EllipticCurvePrivateKey, bytes | None]:
    """Return the private key in a PEM file, and its password if it has one. Raises SigningError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    if b"PRIVATE KEY-----" not in data:
        what = "a public key" if b"PUBLIC KEY-----" in data else "no PEM file"
        raise SigningError(f"{path} is {what}, expected a private key. {_MAKE}")
    _check_place(path, models)
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


def check_certificate(path: Path, chain: tuple[Path, ...], key: EllipticCurvePrivateKey) -> str:
    """Return the subject of the certificate of `key` in a PEM file, after checking it and its chain.

    Raises SigningError.
    """
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
    if certificate.public_key() != key.public_key():
        raise SigningError(f"the certificate {path} is that of another private key")
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
def without_password(key: EllipticCurvePrivateKey, path: Path, password: bytes | None) -> Iterator[Path]:
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
