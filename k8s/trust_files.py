"""Whose versions pods accept, as the files of a ConfigMap: `k8s/sync.py` reads them.

    `trust` of models.yaml ──► key-1-release.pem, certificate-1-root.pem, trust.json, sigstore.json ──► Trust

They are public: keys, certificates and names. A file with a private key is refused before it could leave this machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from tfserving.foundation.files import read_text
from tfserving.foundation.trust import Identity, Trust

# The volume with the files, and the annotation of pods with their fingerprint.
TRUST = "trust"
# How the names of the files begin.
KEY, CERTIFICATE = "key-", "certificate-"
# Names, and the configuration of a Sigstore of one's own.
NAMES, SIGSTORE = "trust.json", "sigstore.json"
_IDENTITIES, _CERTIFICATE_NAMES = "identities", "certificate_names"
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
    identities = [{"identity": one.identity, "issuer": one.issuer} for one in trust.identities]
    # The names narrow whom a root's certificates stand for, so they are written when there are none, too.
    names = {_CERTIFICATE_NAMES: trust.certificate_names, _IDENTITIES: identities}
    made = {
        **_texts(KEY, trust.keys),
        **_texts(CERTIFICATE, trust.certificates),
        NAMES: json.dumps(names, separators=(",", ":")),
    }
    if trust.sigstore_config:
        made[SIGSTORE] = _text(trust.sigstore_config, "sigstore_config")
    if (size := sum(len(text.encode()) for text in made.values())) > LARGEST:
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
    text = _text(path, setting)
    named = _BEGIN.findall(text)
    blocks = [match[0] for match in _PEM.finditer(text) if match[1] == wanted]
    if not blocks or len(blocks) != len(named) or (kind == KEY and len(blocks) > 1):
        count = "one block" if kind == KEY else "blocks"
        raise TrustFileError(
            f"trust.{setting}: {path} contains {', '.join(named) or 'nothing in PEM'}; expected {count} {wanted!r}"
        )
    return "\n".join(blocks).replace("\r", "") + "\n"


def _text(path: Path, setting: str) -> str:
    """Return the text of a file without a private key."""
    try:
        text = read_text(path, LARGEST_FILE)
    except OSError as error:
        raise TrustFileError(f"trust.{setting}: {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise TrustFileError(f"trust.{setting}: {path}: {error}") from None
    if "PRIVATE KEY-----" in text:
        raise TrustFileError(
            f"trust.{setting}: {path} has a private key, which must not leave this machine. Write the public key to a "
            "file of its own: `openssl pkey -in KEY -pubout -out key.pub`"
        )
    return text


def read_trust(folder: Path) -> Trust:
    """Return whom the files in `folder` name. Other files may lie there. Raises TrustFileError, also for nobody."""
    try:
        files = sorted(path.name for path in folder.iterdir())
        found = json.loads(read_text(folder / NAMES, LARGEST_FILE))
    except OSError as error:
        raise TrustFileError(f"{error.filename or folder}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise TrustFileError(f"{folder / NAMES}: {error}") from None
    if not _is_complete(found):
        raise TrustFileError(
            f"{folder / NAMES}: expected an object with {_CERTIFICATE_NAMES}, a list of names, and {_IDENTITIES}, a "
            "list of objects with identity and issuer"
        )
    trust = Trust(
        keys=tuple(folder / name for name in files if name.startswith(KEY)),
        certificates=tuple(folder / name for name in files if name.startswith(CERTIFICATE)),
        identities=tuple(Identity(one["identity"], one["issuer"]) for one in found[_IDENTITIES]),
        certificate_names=tuple(found[_CERTIFICATE_NAMES]),
        sigstore_config=folder / SIGSTORE if SIGSTORE in files else None,
    )
    if not (trust.keys or trust.certificates or trust.identities):
        raise TrustFileError(f"{folder} names nobody to trust: expected files {KEY}*, {CERTIFICATE}*, or identities")
    return trust


def _is_complete(found: object) -> bool:
    """Return whether the content of trust.json has its two lists."""
    if not isinstance(found, dict) or found.keys() != {_IDENTITIES, _CERTIFICATE_NAMES}:
        return False
    names, identities = found[_CERTIFICATE_NAMES], found[_IDENTITIES]
    if not (isinstance(names, list) and isinstance(identities, list)):
        return False
    return all(isinstance(name, str) for name in names) and all(
        isinstance(one, dict)
        and one.keys() == {"identity", "issuer"}
        and all(isinstance(text, str) for text in one.values())
        for one in identities
    )
