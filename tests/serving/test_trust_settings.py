"""`sign` and `trust` in models.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfserving.foundation.trust import Identity, Trust
from tfserving.serving.models_yaml.fleet import FleetError, read_fleet

MODELS = "models: {digits: {builder: a:b}}\n"


def test_whom_a_fleet_trusts_has_absolute_paths(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(
        f"{MODELS}trust:\n  keys: [new.pub, /etc/old.pub]\n  certificates: [root.pem]\n"
        "  certificate_names: [ann@example.com]\n  sigstore_config: instance.json\n"
        "  identities: [{identity: ann@example.com, issuer: 'https://tokens.example.com'}]\n"
    )
    assert read_fleet(file).trusted == Trust(
        (tmp_path / "new.pub", Path("/etc/old.pub")),
        (tmp_path / "root.pem",),
        (Identity("ann@example.com", "https://tokens.example.com"),),
        ("ann@example.com",),
        tmp_path / "instance.json",
    )
    file.write_text(MODELS)
    assert read_fleet(file).trusted is None


def test_who_signs_has_absolute_paths(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(f"{MODELS}sign: {{key: a.key, certificate: a.pem, chain: [b.pem, c.pem]}}\n")
    sign = read_fleet(file).sign
    assert sign is not None
    assert (sign.key, sign.certificate) == (tmp_path / "a.key", tmp_path / "a.pem")
    assert sign.chain == (tmp_path / "b.pem", tmp_path / "c.pem")
    file.write_text(f"{MODELS}sign: {{sigstore: true, sigstore_config: instance.json}}\n")
    sign = read_fleet(file).sign
    assert sign is not None
    assert (sign.sigstore, sign.sigstore_config) == (True, tmp_path / "instance.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sign: {}", "sign: neither key nor sigstore is set"),
        ("sign: {key: a.key, sigstore: true}", "sign: both key and sigstore is set"),
        ("sign: {sigstore: true, certificate: a.pem}", "a certificate needs its key. Add `key: FILE`"),
        ("sign: {key: a.key, chain: [b.pem]}", "a chain needs the certificate that it starts from"),
        ("sign: {key: a.key, sigstore_config: b.json}", "sigstore_config is for signing with Sigstore"),
        ("sign: {key: a.key, password: secret}", "sign.password: unknown key"),
        ("sign: a.key", "sign: got 'a.key', expected a mapping"),
        ("trust: {}", "trust: got nobody to trust, expected at least one of keys, certificates and identities"),
        ("trust: {keys: a.pub}", "trust.keys: got 'a.pub', expected a list"),
        ("trust: {keys: [a.pub], certificate_names: [a]}", "certificate_names needs the roots of these certificates"),
        ("trust: {certificates: [a.pem], certificate_names: ['']}", "trust.certificate_names.0: got ''"),
        ("trust: {keys: [a.pub], sigstore_config: b.json}", "sigstore_config is for identities"),
        ("trust: {identities: [{identity: a}]}", "trust.identities.0.issuer: this key is missing"),
        ("trust: {identities: [{identity: '', issuer: b}]}", "trust.identities.0.identity: got ''"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(f"{MODELS}{text}\n")
    with pytest.raises(FleetError) as caught:
        read_fleet(file)
    assert str(caught.value).startswith(f"{file}:2: ")
    assert words in str(caught.value)
