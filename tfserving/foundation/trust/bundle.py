"""The signature's file, a Sigstore bundle, read without trust: who it names, and which files.

Nothing here is verified. The library reads the same file, so any field that it could read otherwise is refused.
"""

from __future__ import annotations

import base64
import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tfserving.foundation.files import read_bounded
from tfserving.foundation.manifest import SIGNATURE
from tfserving.foundation.trust.keys import shown
from tfserving.foundation.trust.trusted import TrustError
from tfserving.foundation.version_files import BESIDE

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

# https://docs.sigstore.dev/about/bundle/
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
# https://github.com/sigstore/model-transparency: the format since its version 1.0.
_PREDICATE = "https://model_signing/signature/v1.0"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
# https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md: the issuer of the token, as a DER string.
_ISSUER = "1.3.6.1.4.1.57264.1.8"

_LONGEST_CHAIN = 20

Kind = Literal["key", "certificate", "sigstore"]
_KINDS: dict[str, Kind] = {"publicKey": "key", "x509CertificateChain": "certificate", "certificate": "sigstore"}


@dataclass(frozen=True)
class Bundle:
    """A signature: of which kind it is, who it names, in words, and the SHA-256 of each file that it lists.

    `fingerprint` is that of the key, `names` are those of the certificate.
    """

    kind: Kind
    claimed: str
    files: dict[str, str]
    fingerprint: str = ""
    names: frozenset[str] = field(default_factory=frozenset)


def read_bundle(folder: Path) -> Bundle | None:
    """Return the signature of the version in `folder`, None when it has none. Raises TrustError."""
    path = folder / SIGNATURE
    try:
        content = json.loads(read_bounded(path, BESIDE[SIGNATURE]).decode())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise TrustError(f"{path} is no signature: it is nested too deep") from None
    except UnicodeDecodeError:
        raise TrustError(f"{path} is no signature: it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise TrustError(f"{path} is no signature: it is not JSON at line {error.lineno}") from None
    except ValueError as error:
        raise TrustError(f"{path} is no signature: {shown(str(error))}") from None
    try:
        with warnings.catch_warnings():
            # The names in a certificate may be longer than they should be.
            warnings.simplefilter("ignore")
            return _parsed(content)
    except _WrongError as error:
        raise TrustError(f"{path} is no signature that this toolkit accepts: {error}") from None


class _WrongError(Exception):
    """What is wrong with a bundle, in a few words."""


def _parsed(content: object) -> Bundle:
    bundle = _object(content, "the file", {"mediaType", "verificationMaterial", "dsseEnvelope"})
    if bundle.get("mediaType") != MEDIA_TYPE:
        raise _WrongError(f"its mediaType is {_short(bundle.get('mediaType'))}, expected {MEDIA_TYPE}")
    files = _signed_files(_object(bundle.get("dsseEnvelope"), "dsseEnvelope", {"payload", "payloadType", "signatures"}))
    material = _object(bundle.get("verificationMaterial"), "verificationMaterial", None)
    found = sorted(material.keys() & _KINDS.keys())
    if len(found) != 1:
        raise _WrongError(f"verificationMaterial has {' and '.join(found) or 'nobody'}, expected one signer")
    (name,) = found
    kind = _KINDS[name]
    if kind == "sigstore":
        certificate = _certificate(material[name], name)
        return Bundle(kind, _identity(certificate), files, names=_names(certificate))
    if extra := material.keys() - {name, "tlogEntries"}:
        raise _WrongError(f"verificationMaterial has {shown(min(extra))} beside {name}")
    if material.get("tlogEntries"):
        raise _WrongError(f"verificationMaterial has tlogEntries beside {name}")
    if kind == "key":
        hint = _object(material[name], name, {"hint"}).get("hint")
        if not isinstance(hint, str) or not _FINGERPRINT.fullmatch(hint):
            raise _WrongError(f"publicKey.hint is {_short(hint)}, expected the SHA-256 of the key's PEM text")
        return Bundle(kind, f"the key with the fingerprint {hint[:16]}", files, fingerprint=hint)
    chain = _list(_object(material[name], name, {"certificates"}).get("certificates"), f"{name}.certificates")
    if len(chain) > _LONGEST_CHAIN:
        raise _WrongError(f"{name}.certificates has {len(chain)}, expected at most {_LONGEST_CHAIN}")
    certificate, *_ = (_certificate(one, f"{name}.certificates") for one in chain)
    subject, issuer = (shown(one.rfc4514_string()) for one in (certificate.subject, certificate.issuer))
    return Bundle(kind, f"the certificate of {subject}, issued by {issuer}", files, names=_names(certificate))


def _signed_files(envelope: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each file that the statement in the envelope lists."""
    if envelope.get("payloadType") != _PAYLOAD:
        raise _WrongError(f"dsseEnvelope.payloadType is {_short(envelope.get('payloadType'))}, expected {_PAYLOAD}")
    if (many := len(_list(envelope.get("signatures"), "dsseEnvelope.signatures"))) != 1:
        raise _WrongError(f"dsseEnvelope.signatures has {many}, expected one")
    try:
        statement = _object(json.loads(_decoded(envelope.get("payload"), "dsseEnvelope.payload")), "the payload", None)
    except RecursionError:
        raise _WrongError("the payload is nested too deep") from None
    except ValueError:
        raise _WrongError("the payload is not JSON") from None
    for key, expected in (("_type", _STATEMENT), ("predicateType", _PREDICATE)):
        if statement.get(key) != expected:
            raise _WrongError(f"{key} of the payload is {_short(statement.get(key))}, expected {expected}")
    predicate = _object(statement.get("predicate"), "predicate", None)
    how = _object(predicate.get("serialization"), "serialization", None)
    for key, wanted in (("method", "files"), ("hash_type", "sha256"), ("allow_symlinks", False)):
        if how.get(key) != wanted:
            raise _WrongError(f"serialization.{key} is {_short(how.get(key))}, expected {json.dumps(wanted)}")
    return _resources(_list(predicate.get("resources"), "resources"))


def _resources(resources: list[Any]) -> dict[str, str]:
    files: dict[str, str] = {}
    for one in resources:
        resource = _object(one, "a resource", None)
        name, digest = resource.get("name"), resource.get("digest")
        if not isinstance(name, str) or not isinstance(digest, str) or resource.get("algorithm") != "sha256":
            raise _WrongError(f"resources has {_short(name)}, expected a name and its SHA-256")
        if name in files:
            raise _WrongError(f"resources has {_short(name)} twice")
        files[name] = digest
    return files


def _certificate(content: object, where: str) -> Certificate:
    from cryptography.x509 import load_der_x509_certificate

    data = _decoded(_object(content, where, {"rawBytes"}).get("rawBytes"), f"{where}.rawBytes")
    try:
        certificate = load_der_x509_certificate(data)
        # It parses its parts when they are read.
        _names(certificate)
    except Exception:
        raise _WrongError(f"{where} has no valid certificate") from None
    return certificate


def _names(certificate: Certificate) -> frozenset[str]:
    """Return the names of a certificate that a person or a machine is known by."""
    from cryptography import x509

    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return frozenset(str(one.value) for one in common)
    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
    return frozenset(name for kind in kinds for name in alternative.get_values_for_type(kind))


def _identity(certificate: Certificate) -> str:
    """Return whom a certificate of Sigstore names, and the issuer of the token."""
    from cryptography.x509 import ExtensionNotFound, ObjectIdentifier, UnrecognizedExtension

    who = ", ".join(shown(name) for name in sorted(_names(certificate))) or "nobody"
    try:
        value = certificate.extensions.get_extension_for_oid(ObjectIdentifier(_ISSUER)).value
    except ExtensionNotFound:
        return f"{who} (Sigstore)"
    assert isinstance(value, UnrecognizedExtension)
    # A tag and a length of one byte each, then the text.
    return f"{who} (Sigstore, {shown(value.value[2:].decode(errors='replace'))})"


def _decoded(content: object, where: str) -> bytes:
    try:
        if isinstance(content, str):
            return base64.b64decode(content, validate=True)
    except ValueError:
        pass
    raise _WrongError(f"{where} is no Base64")


def _object(content: object, where: str, keys: set[str] | None) -> dict[str, Any]:
    """Return `content` if it is an object, with no other than `keys`."""
    if not isinstance(content, dict):
        raise _WrongError(f"{where} is {_short(content)}, expected an object")
    if keys is not None and (extra := content.keys() - keys):
        raise _WrongError(f"{where} has {shown(min(extra))}, expected {', '.join(sorted(keys))}")
    return content


def _list(content: object, where: str) -> list[Any]:
    if not isinstance(content, list) or not content:
        raise _WrongError(f"{where} is {_short(content)}, expected a list with something in it")
    return content


def _short(content: object) -> str:
    if isinstance(content, (dict, list)):
        kind = "object" if isinstance(content, dict) else "list"
        return f"an {kind}" if content and kind == "object" else f"{'a' if content else 'an empty'} {kind}"
    return shown(ascii(content))
