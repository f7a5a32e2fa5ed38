"""`sign` and `trust` in models.yaml: who signs new versions, and whose versions are served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from tfserving.foundation.trust import Identity, Trust
from tfserving.serving.models_yaml.server import Strict


class Sign(Strict):
    """Who signs new versions: a private key, with a certificate if there is one, or an identity of Sigstore."""

    key: Annotated[
        Path | None,
        Field(
            description="The PEM file of the private key, on the elliptic curve P-256, P-384 or P-521. Relative to "
            "models.yaml. TFSERVING_SIGN_PASSWORD has its password."
        ),
    ] = None
    certificate: Annotated[
        Path | None, Field(description="The PEM file of the key's certificate. Relative to models.yaml.")
    ] = None
    chain: Annotated[tuple[Path, ...], Field(description="PEM files of the certificates between it and the root.")] = ()
    sigstore: Annotated[
        bool,
        Field(description="Sign without a key, as the identity that Sigstore certifies. This needs a network."),
    ] = False
    sigstore_config: Annotated[
        Path | None,
        Field(
            description="The client trust configuration of a Sigstore instance, as JSON. Default: the public instance. "
            "Relative to models.yaml."
        ),
    ] = None

    @model_validator(mode="after")
    def _one_signer(self) -> Sign:
        if (self.key is None) != self.sigstore:
            which = "both key and" if self.sigstore else "neither key nor"
            raise ValueError(f"{which} sigstore is set; expected one of `key: FILE` and `sigstore: true`")
        if (self.certificate or self.chain) and self.key is None:
            raise ValueError("a certificate needs its key. Add `key: FILE`")
        if self.chain and self.certificate is None:
            raise ValueError("a chain needs the certificate that it starts from. Add `certificate: FILE`")
        if self.sigstore_config and not self.sigstore:
            raise ValueError("sigstore_config is for signing with Sigstore. Add `sigstore: true`")
        return self


class TrustedIdentity(Strict):
    """An identity that Sigstore certified."""

    identity: Annotated[str, Field(min_length=1, description="An e-mail address, or the URL of a workflow.")]
    issuer: Annotated[str, Field(min_length=1, description="The issuer of the identity's token.")]


class TrustSettings(Strict):
    """Whose versions are served. Any one signature of these is enough."""

    keys: Annotated[
        tuple[Path, ...],
        Field(description="PEM files of public keys. Several allow a key to be replaced. Relative to models.yaml."),
    ] = ()
    certificates: Annotated[
        tuple[Path, ...], Field(description="PEM files of root certificates. Relative to models.yaml.")
    ] = ()
    certificate_names: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(
            description="Whose certificates: an e-mail address, a URI or a DNS name among the alternative names, or "
            "the common name of one without. Default: any certificate below the roots."
        ),
    ] = ()
    identities: Annotated[tuple[TrustedIdentity, ...], Field(description="Identities that Sigstore certified.")] = ()
    sigstore_config: Annotated[
        Path | None,
        Field(
            description="The client trust configuration of a Sigstore instance, as JSON. With it no network is needed. "
            "Default: the public instance. Relative to models.yaml."
        ),
    ] = None

    @model_validator(mode="after")
    def _somebody(self) -> TrustSettings:
        if not (self.keys or self.certificates or self.identities):
            raise ValueError("got nobody to trust, expected at least one of keys, certificates and identities")
        if self.certificate_names and not self.certificates:
            raise ValueError("certificate_names needs the roots of these certificates. Add `certificates: [FILE]`")
        if self.sigstore_config and not self.identities:
            raise ValueError("sigstore_config is for identities. Add `identities: [{identity: …, issuer: …}]`")
        return self

    def trust(self) -> Trust:
        """Return it as the signature's verifier takes it."""
        return Trust(
            self.keys,
            self.certificates,
            tuple(Identity(one.identity, one.issuer) for one in self.identities),
            self.certificate_names,
            self.sigstore_config,
        )
