"""Who is trusted to sign versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfserving.foundation.version_files import VersionError


class TrustError(VersionError):
    """A version is not signed by anyone who is trusted. The text names who is, and who signed it. It is one line."""


@dataclass(frozen=True)
class Identity:
    """Whom Sigstore certified: an e-mail address or a workflow's URL, and the issuer of the identity's token."""

    identity: str
    issuer: str

    def __str__(self) -> str:
        return f"{self.identity} (Sigstore, {self.issuer})"


@dataclass(frozen=True)
class Trust:
    """Whose signatures are accepted: any one of these is enough.

    `keys` are PEM files of public keys (elliptic curves P-256, P-384, P-521), `certificates` of self-signed roots. A
    certificate below a root must have one of `certificate_names`, if there are any: an e-mail address, a URI or a DNS
    name among its alternative names, or its common name. `sigstore_config` is the JSON file of a Sigstore instance of
    one's own, by default the public one.
    """

    keys: tuple[Path, ...] = ()
    certificates: tuple[Path, ...] = ()
    identities: tuple[Identity, ...] = ()
    certificate_names: tuple[str, ...] = ()
    sigstore_config: Path | None = None
