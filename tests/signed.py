"""Tiny versions, and keys and certificates that sign them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.manifests import PROVENANCE
from tfserving.export.manifest import Manifest, hash_files
from tfserving.export.signing import Signer, key_signer
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE

_WHEN = datetime(2026, 1, 1, tzinfo=timezone.utc)


def tiny_version(folder: Path, model: str = "scaled", number: int = 1, graph: bytes = b"graph") -> Path:
    """A version of two files, with its manifest, in `folder`/`model`/`number`."""
    version = folder / model / str(number)
    (version / "variables").mkdir(parents=True)
    (version / SAVED_MODEL).write_bytes(graph)
    (version / "variables/variables.index").write_bytes(b"weights")
    return with_manifest(version, model, number)


def with_manifest(version: Path, model: str = "scaled", number: int = 1) -> Path:
    """The version with a new manifest of all that lies there, as anybody can make one."""
    (version / MANIFEST).parent.mkdir(exist_ok=True)
    manifest = Manifest(
        model=model,
        version=number,
        created=_WHEN,
        builder="tests.scaled:build",
        provenance=PROVENANCE,
        metrics={},
        signatures={},
        tolerances={},
        files=hash_files(version),
        digest="",
    )
    (version / MANIFEST).write_text(manifest.text())
    return version


def make_key(folder: Path, name: str, curve: ec.EllipticCurve | None = None, password: str = "") -> tuple[Path, Path]:
    """The files NAME.key and NAME.pub of a new key pair, on P-256 by default."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    return write_key(folder / f"{name}.key", key, password), write_public_key(folder / f"{name}.pub", key)


def write_key(path: Path, key: Any, password: str = "") -> Path:
    how: Any = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    return path


def write_public_key(path: Path, key: Any) -> Path:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return path


def sign_with(version: Path, key: Path) -> Path:
    """Signs the version, as the commands do."""
    return signed_by(version, key_signer(key))


def signed_by(version: Path, signer: Signer) -> Path:
    scratch = version.parent / ".scratch"
    scratch.mkdir(exist_ok=True)
    signer.sign(version, scratch)
    scratch.rmdir()
    return version


def read_signature(version: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((version / SIGNATURE).read_text())
    return content


def write_signature(version: Path, content: Mapping[str, Any] | str | bytes) -> None:
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    (version / SIGNATURE).write_bytes(text.encode() if isinstance(text, str) else text)


class Authority:
    """A root, an intermediate and the certificates of signers, each with its key, as PEM files in `folder`."""

    def __init__(self, folder: Path, name: str = "root") -> None:
        self.folder, self.name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._middle = ec.generate_private_key(ec.SECP256R1())
        self._issuer = _named(f"{name} intermediate")
        self.root = self._write(name, _named(name), _named(name), self._key, self._key, ca=True)
        self.intermediate = self._write(f"{name}-middle", self._issuer, _named(name), self._middle, self._key, ca=True)

    def signer(
        self, name: str, email: str | None = None, password: str = "", days: tuple[int, int] = (-1, 90), **usage: bool
    ) -> Signer:
        """A signer with a certificate of this authority, from and for so many days from now."""
        key, certificate = self.certificate(name, email, password, days, **usage)
        return key_signer(key, certificate, (self.intermediate,))

    def certificate(
        self,
        name: str,
        email: str | None = None,
        password: str = "",
        days: tuple[int, int] = (-1, 90),
        *,
        direct: bool = False,
        **usage: bool,
    ) -> tuple[Path, Path]:
        """The files of a signer's key and certificate, by the root itself when `direct`."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer, by = (_named(self.name), self._key) if direct else (self._issuer, self._middle)
        made = self._write(name, _named(name), issuer, key, by, email=email, days=days, **usage)
        return write_key(self.folder / f"{name}.key", key, password), made

    def _write(
        self,
        file: str,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        by: ec.EllipticCurvePrivateKey,
        *,
        ca: bool = False,
        email: str | None = None,
        days: tuple[int, int] = (-1, 90),
        signs: bool = True,
    ) -> Path:
        now = datetime.now(timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=min(days[0], -400 if ca else days[0])))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_usage(signs=signs and not ca, issues=ca), critical=True)
        )
        if email:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(email)]), critical=False)
        path = self.folder / f"{file}.pem"
        path.write_bytes(builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=not signs and not issues,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=issues,
        encipher_only=False,
        decipher_only=False,
    )
