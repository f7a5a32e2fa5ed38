"""Signatures, verified by the library of OpenSSF Model Signing.

The library hashes a model's files by itself. Here it gets the hashes that the version was judged by, so that no file is
read twice, and a signature must list exactly these files, whatever its own settings are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import methodcaller
from pathlib import Path
from typing import Any

from tfserving.foundation.extras import missing_for_signatures
from tfserving.foundation.manifest import SIGNATURE, Manifest
from tfserving.foundation.trust.bundle import Bundle, read_bundle
from tfserving.foundation.trust.keys import check_sigstore_config, read_public_key, read_roots, shown
from tfserving.foundation.trust.listed import Listed, files_to_sign
from tfserving.foundation.trust.trusted import Trust, TrustError

# How many files an error names.
_SOME = 3
# The library has no types: a function that chooses the verifier of a `model_signing.verifying.Config`.
_Choose = Callable[[Any], Any]


def verify_signature(folder: Path, manifest: Manifest, trust: Trust) -> str:
    """Return who signed the version in `folder`, whose files were judged by `manifest`. Raises TrustError."""
    if missing := missing_for_signatures("trust"):
        raise TrustError(missing)
    trusted = _trusted(trust)
    bundle = read_bundle(folder)
    if bundle is None:
        raise TrustError(f"{folder} is not signed: it has no {SIGNATURE}. Trusted is only what is signed by {trusted}")
    files = files_to_sign(manifest)
    reasons = []
    for who, choose in _candidates(bundle, trust):
        try:
            _verify(folder, choose, files, who, bundle)
        except _OtherSignerError as error:
            reasons.append(f"{who}: {error}" if str(error) else f"{who} did not make it")
        else:
            return who
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise TrustError(
        f"{folder} is not signed by anyone who is trusted: its signature names {bundle.claimed}, which is not verified"
        f"{why}. Trusted is only what is signed by {trusted}"
    )


class _OtherSignerError(Exception):
    """The signature isn't by this signer. The text has the library's reason, if it gives one."""


def _verify(folder: Path, choose: _Choose, files: Mapping[str, str], who: str, bundle: Bundle) -> None:
    """Raise _OtherSignerError when the signature isn't by `who`, and TrustError when `who` signed other files."""
    from model_signing import verifying

    listed = Listed(files, folder.name)
    config: Any = verifying.Config
    try:
        choose(config()).set_hashing_config(listed).verify(folder, folder / SIGNATURE)
    except Exception as error:
        if not listed.used:
            raise _OtherSignerError(_reason(error)) from None
        changed = sorted(
            name for name in files.keys() | bundle.files.keys() if files.get(name) != bundle.files.get(name)
        )
        names = ", ".join(map(shown, changed[:_SOME])) + (f" and {len(changed) - _SOME} more" * (len(changed) > _SOME))
        raise TrustError(f"{folder} is not what {who} signed: {names or _reason(error)} differ") from None


def _candidates(bundle: Bundle, trust: Trust) -> Iterator[tuple[str, _Choose]]:
    """Yield who of `trust` may have signed `bundle`, in words and for the library."""
    if bundle.kind == "key":
        for key in map(read_public_key, trust.keys):
            if key.fingerprint == bundle.fingerprint:
                yield str(key), methodcaller("use_elliptic_key_verifier", public_key=key.path)
    elif bundle.kind == "certificate":
        if trust.certificates and (not trust.certificate_names or bundle.names & set(trust.certificate_names)):
            yield bundle.claimed, methodcaller("use_certificate_verifier", certificate_chain=trust.certificates)
    else:
        for one in trust.identities:
            whom = {"identity": one.identity, "oidc_issuer": one.issuer, "trust_config": trust.sigstore_config}
            yield str(one), methodcaller("use_sigstore_verifier", **whom)


def _trusted(trust: Trust) -> str:
    """Return who is trusted, in words. Raises TrustError when a file of theirs can't be used."""
    found = [str(read_public_key(path)) for path in trust.keys]
    named = f" of {' or '.join(trust.certificate_names)}" if trust.certificate_names else ""
    for path in trust.certificates:
        read_roots(path)
        found.append(f"a certificate{named} below the root in {path}")
    if trust.sigstore_config:
        check_sigstore_config(trust.sigstore_config)
    found += map(str, trust.identities)
    return ", ".join(found) or "nobody"


def _reason(error: Exception) -> str:
    """Return the first line of the library's error; empty for a signature that doesn't fit the key."""
    from cryptography.exceptions import InvalidSignature
    from sigstore.errors import NetworkError, TUFError

    if isinstance(error, InvalidSignature):
        return ""
    if isinstance(error, (NetworkError, TUFError)):
        return f"Sigstore's keys can't be loaded ({shown(str(error))}). This needs a network, or `sigstore_config`"
    return shown(str(error).strip().partition("\n")[0] or type(error).__name__)
