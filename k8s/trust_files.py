"""Whose versions pods accept, as the files of a ConfigMap: `k8s/sync.py` reads them.

    `trust` of models.yaml ──► key-1-release.pem, certificate-1-root.pem, identities.json ──► Trust

They are public: keys, certificates and names. A file with a private key is refused before it could leave this machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfserving.foundation.files import read_text
from tfserving.foundation.trust import Identity, Trust

# The volume with the files, and the annotation of pods with their fingerprint.
TRUST = "trust"
IDENTITIES = "identities.json"
# How the names of the files begin.
KEY, CERTIFICATE = "key-", "certificate-"
# A ConfigMap has room for 1 MiB.
LARGEST_FILE, LARGEST = 64 << 10, 512 << 10
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\r?\n[A-Za-z0-9+/=\r\n]+-----END \1-----")
_BEGIN = re.compile(r"-----BEGIN ([^-\n]*)-----")
# Of the key of a ConfigMap.
_OTHER = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME = 100


class TrustFileError(Exception):
    """A file doesn't contain what `trust` needs, or contains a private key."""


def trust_files(trust: Trust) -> dict[str, str]:
    """Return the text of each file by its name. Raises TrustFileError."""
    made = {**_texts(KEY, trust.keys), **_texts(CERTIFICATE, trust.certificates)}
    if trust.identities:
        found = [{"identity": one.identity, "issuer": one.issuer} for one in trust.identities]
        made[IDENTITIES] = json.dumps(found, indent=2) + "\n"
    if (size := sum(map(len, made.values()))) > LARGEST:
        raise TrustFileError(f"trust: its files have {size} bytes, and a ConfigMap has room for {LARGEST} of them")
    return made


def fingerprint(trust: Trust) -> str:
    """Return a hash of the files. Raises TrustFileError."""
    return hashlib.sha256(json.dumps(trust_files(trust)).encode()).hexdigest()[:16]


def _texts(kind: str, paths: Sequence[Path]) -> dict[str, str]:
    return {
        f"{kind}{number}-{_OTHER.sub('_', path.name)[-_LONGEST_NAME:]}": _pem(kind, path)
        for number, path in enumerate(paths, 1)
    }


def _pem(kind: str, path: Path) -> str:
    """Return the blocks of a PEM file, without the text around them."""
    wanted, setting = ("PUBLIC KEY", "keys") if kind == KEY else ("CERTIFICATE", "certificates")
    try:
        text = read_text(path, LARGEST_FILE)
    except OSError as error:
        raise TrustFileError(f"trust.{setting}: {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise TrustFileError(f"trust.{setting}: {path}: {error}") from None
    named = _BEGIN.findall(text)
    if any("PRIVATE" in name for name in named):
        raise TrustFileError(
            f"trust.{setting}: {path} contains a private key, which must not leave this machine. Write the public key "
            "to a file of its own: `openssl pkey -in KEY -pubout -out key.pub`"
        )
    blocks = [match[0] for match in _PEM.finditer(text) if match[1] == wanted]
    if not blocks or len(blocks) != len(named) or (kind == KEY and len(blocks) > 1):
        count = "one block" if kind == KEY else "blocks"
        raise TrustFileError(
            f"trust.{setting}: {path} contains {', '.join(named) or 'nothing in PEM'}; expected {count} {wanted!r}"
        )
    return "\n".join(blocks).replace("\r", "") + "\n"


def read_trust(folder: Path) -> Trust:
    """Return whom the files in `folder` name. Other files may lie there. Raises TrustFileError, also for nobody."""
    try:
        names = sorted(path.name for path in folder.iterdir())
        identities = tuple(_identities(folder / IDENTITIES)) if IDENTITIES in names else ()
    except OSError as error:
        raise TrustFileError(f"{error.filename or folder}: {error.strerror or error}") from None
    keys, certificates = (
        tuple(folder / name for name in names if name.startswith(kind)) for kind in (KEY, CERTIFICATE)
    )
    if not (keys or certificates or identities):
        raise TrustFileError(f"{folder} names nobody to trust: expected files {KEY}*, {CERTIFICATE}* or {IDENTITIES}")
    return Trust(keys, certificates, identities)


def _identities(path: Path) -> Iterator[Identity]:
    try:
        found = json.loads(read_text(path, LARGEST_FILE))
    except (ValueError, RecursionError) as error:
        raise TrustFileError(f"{path}: {error}") from None
    form = {"identity", "issuer"}
    for one in found if isinstance(found, list) else [found]:
        if not (isinstance(one, dict) and one.keys() == form and all(isinstance(text, str) for text in one.values())):
            raise TrustFileError(f"{path}: expected a list of objects with `identity` and `issuer`")
        yield Identity(one["identity"], one["issuer"])
