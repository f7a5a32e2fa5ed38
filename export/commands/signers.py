"""Who signs and who is trusted, as the options of a command and models.yaml name them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.errors import WRONG, CommandError

if TYPE_CHECKING:
    from tfserving.export.signing import Signer
    from tfserving.foundation.trust import Trust
    from tfserving.serving.models_yaml.fleet import Fleet

SIGSTORE = "sigstore"
_KEY = "KEY|sigstore"
_BY = (
    "Sign with the private key in this PEM file, or as the identity that Sigstore certifies. "
    "TFSERVING_SIGN_PASSWORD has the key's password.  [default: `sign` of models.yaml]"
)
sign_option = click.option("--sign", metavar=_KEY, help=_BY)
key_option = click.option("--key", metavar=_KEY, help=_BY)
no_sign_option = click.option("--no-sign", is_flag=True, help="Do not sign, whatever models.yaml names.")
trust_option = click.option(
    "--trust",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="A public key, as a PEM file: fail when none of them signed the version. Repeatable.  [default: `trust` of "
    "models.yaml]",
)


def signer_of(chosen: str | None, fleet: Fleet | None, models: Path) -> Signer | None:
    """Return the signer that an option names, or models.yaml; None when neither names one.

    `models` is the folder of all versions. A password may be prompted for. Raises SigningError.
    """
    from tfserving.export.signing import key_signer, sigstore_signer

    sign = fleet.sign if fleet else None
    if chosen == SIGSTORE:
        return sigstore_signer(sign.sigstore_config if sign else None)
    if chosen is not None:
        return key_signer(Path(chosen), models=models)
    if sign is None:
        return None
    if sign.key is None:
        return sigstore_signer(sign.sigstore_config)
    return key_signer(sign.key, sign.certificate, sign.chain, models)


def trust_of(keys: tuple[Path, ...], fleet: Fleet | None) -> Trust | None:
    """Return whom the option --trust names, or models.yaml; None when neither names anyone.

    Raises CommandError when a file can't be used.
    """
    from tfserving.foundation.trust import Trust, TrustError, check_trust

    trust = Trust(keys=keys) if keys else fleet.trusted if fleet else None
    if trust is not None:
        try:
            check_trust(trust)
        except TrustError as error:
            raise CommandError(str(error), WRONG) from None
    return trust


def untrusted(signer: Signer | None, trust: Trust | None) -> str | None:
    """Return the warning that servers of this fleet will not serve what is exported now; None when they may."""
    from tfserving.export.signing import fingerprint_of
    from tfserving.foundation.trust.keys import read_public_key

    if trust is None:
        return None
    if signer is None:
        return "`trust` is set and nobody signs, so this fleet serves none of these versions until `export sign`"
    # Who a certificate or Sigstore names is known when it has signed.
    if signer.public_key is None:
        return None
    trusted = {read_public_key(path).fingerprint for path in trust.keys}
    if fingerprint_of(signer.public_key) in trusted:
        return None
    return f"{signer.who} is not in `trust`, so this fleet serves none of these versions"
