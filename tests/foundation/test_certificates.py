"""Versions that are signed with certificates: who is below a trusted root, and has a trusted name."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import signing

from tests.signed import Authority, make_key, read_signature, sign_with, signed_by, tiny_version, write_signature
from tfserving.foundation.manifest import SIGNATURE
from tfserving.foundation.trust import Trust, TrustError, accept, check_trust

EMAIL = "release@example.com"
# The library has no types.
_SIGNING: Any = signing.Config


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return tiny_version(tmp_path / "models")


def accepted(version: Path, trust: Trust) -> str | None:
    return accept(version, "scaled", 1, trust).signer


def refused(version: Path, trust: Trust, *words: str) -> None:
    with pytest.raises(TrustError) as caught:
        accepted(version, trust)
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value).splitlines()) == 1


def test_a_certificate_below_a_trusted_root_is_accepted_and_named(authority: Authority, version: Path) -> None:
    signed_by(version, authority.signer("ann", EMAIL))
    trust = Trust(certificates=(authority.root,))
    check_trust(trust)
    assert accepted(version, trust) == "the certificate of CN=ann, issued by CN=root intermediate"


def test_only_certificates_with_a_trusted_name_are_accepted(authority: Authority, version: Path) -> None:
    signed_by(version, authority.signer("bob", EMAIL))
    assert accepted(version, Trust(certificates=(authority.root,), certificate_names=("other", EMAIL)))
    # The common name counts only in a certificate that has no other names.
    for names in (("eve@example.com",), ("bob",)):
        trust = Trust(certificates=(authority.root,), certificate_names=names)
        refused(version, trust, "names the certificate of CN=bob", f"a certificate of {names[0]} below the root in")
    signed_by(version, authority.signer("carol"))
    assert accepted(version, Trust(certificates=(authority.root,), certificate_names=("carol",)))


def test_attack_a_certificate_of_another_authority_with_the_same_names_is_refused(
    authority: Authority, version: Path, tmp_path: Path
) -> None:
    (tmp_path / "false").mkdir()
    signed_by(version, Authority(tmp_path / "false").signer("ann", EMAIL))
    trust = Trust(certificates=(authority.root,), certificate_names=(EMAIL,))
    refused(version, trust, "is not signed by anyone who is trusted", "CN=ann, issued by CN=root intermediate")


def test_attack_a_certificate_that_a_signer_issued_is_refused(authority: Authority, version: Path) -> None:
    key, certificate = authority.certificate("mallory")
    issuer: Any = serialization.load_pem_private_key(key.read_bytes(), None)
    authority_of_mallory = Authority(authority.folder, "mallorys")
    made = authority_of_mallory._write(
        "forged",
        x509.load_pem_x509_certificate(authority.certificate("release")[1].read_bytes()).subject,
        x509.load_pem_x509_certificate(certificate.read_bytes()).subject,
        issuer,
        issuer,
        email=EMAIL,
    )
    _SIGNING().use_certificate_signer(
        private_key=key, signing_certificate=made, certificate_chain=(certificate, authority.intermediate)
    ).sign(version, version / SIGNATURE)
    refused(version, Trust(certificates=(authority.root,)), "invalid CA certificate")


def test_attack_the_chain_of_a_trusted_signer_around_another_key_is_refused(
    authority: Authority, version: Path, tmp_path: Path
) -> None:
    signed_by(version, authority.signer("dora"))
    chain = read_signature(version)["verificationMaterial"]
    sign_with(version, make_key(tmp_path, "attacker")[0])
    write_signature(version, read_signature(version) | {"verificationMaterial": chain})
    refused(version, Trust(certificates=(authority.root,)), "CN=dora, issued by CN=root intermediate did not make it")


def test_attack_a_certificate_that_is_not_for_signing_is_refused(authority: Authority, version: Path) -> None:
    key, certificate = authority.certificate("server", signs=False)
    _SIGNING().use_certificate_signer(
        private_key=key, signing_certificate=certificate, certificate_chain=(authority.intermediate,)
    ).sign(version, version / SIGNATURE)
    refused(version, Trust(certificates=(authority.root,)), "cannot be used for signing")


def test_a_signature_outlives_its_certificate(authority: Authority, version: Path) -> None:
    # No one certifies when it was made: a root or a name is removed from `trust` instead.
    signed_by(version, authority.signer("former", days=(-20, -10)))
    assert accepted(version, Trust(certificates=(authority.root,)))


def test_who_trusts_keys_only_refuses_a_certificate_and_the_other_way_round(
    authority: Authority, version: Path, tmp_path: Path
) -> None:
    key, public = make_key(tmp_path, "owner")
    signed_by(version, authority.signer("ann"))
    refused(version, Trust(keys=(public,)), "names the certificate of CN=ann", str(public))
    sign_with(version, key)
    refused(version, Trust(certificates=(authority.root,)), "names the key with the fingerprint", str(authority.root))
    assert accepted(version, Trust(keys=(public,), certificates=(authority.root,)))


def test_other_tools_verify_the_signature_and_their_signature_is_accepted(authority: Authority, version: Path) -> None:
    signed_by(version, authority.signer("ann"))

    def model_signing(command: str, *options: object) -> None:
        where = ["--signature", version / SIGNATURE, *options, version]
        run = [sys.executable, "-m", "model_signing", command, "certificate", *map(str, where)]
        done = subprocess.run(run, text=True, capture_output=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr

    model_signing("verify", "--certificate_chain", authority.root)
    (version / SIGNATURE).unlink()
    key, certificate = authority.certificate("theirs")
    chain = ("--signing_certificate", certificate, "--certificate_chain", authority.intermediate)
    model_signing("sign", "--private_key", key, *chain)
    assert accepted(version, Trust(certificates=(authority.root,)))


@pytest.mark.parametrize(
    ("certificates", "words"),
    [
        ([], "x509CertificateChain.certificates is an empty list"),
        ([{"rawBytes": "AAAA"}], "has no valid certificate"),
        ([{"rawBytes": "?"}], "is no Base64"),
        ([{"rawBytes": ""}], "has no valid certificate"),
        (["text"], "expected an object"),
        (30 * [{"rawBytes": ""}], "certificates has 30, expected at most 20"),
    ],
    ids=["none", "no certificate", "no Base64", "empty", "text", "many"],
)
def test_what_is_no_chain_is_refused_in_one_line(
    authority: Authority, version: Path, certificates: list[Any], words: str
) -> None:
    signed_by(version, authority.signer("ann"))
    material = {"x509CertificateChain": {"certificates": certificates}, "tlogEntries": []}
    write_signature(version, read_signature(version) | {"verificationMaterial": material})
    refused(version, Trust(certificates=(authority.root,)), words)


def test_a_name_with_line_ends_and_control_characters_stays_in_one_line(version: Path, tmp_path: Path) -> None:
    signed_by(version, Authority(tmp_path, "plain").signer("ann"))
    content = read_signature(version)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "trusted\n\x1b[2J" + 500 * "x", _validate=False)])
    now = x509.load_pem_x509_certificate((tmp_path / "plain.pem").read_bytes())
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now.not_valid_before_utc)
        .not_valid_after(now.not_valid_after_utc)
        .sign(key, hashes.SHA256())
    )
    raw = base64.b64encode(made.public_bytes(serialization.Encoding.DER)).decode()
    material = {"x509CertificateChain": {"certificates": [{"rawBytes": raw}]}, "tlogEntries": []}
    write_signature(version, content | {"verificationMaterial": material})
    with pytest.raises(TrustError) as caught:
        accepted(version, Trust(certificates=(tmp_path / "plain.pem",)))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


def test_a_file_that_is_no_root_is_refused_before_anything_starts(authority: Authority, tmp_path: Path) -> None:
    key, public = make_key(tmp_path, "owner")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "both").write_bytes(authority.root.read_bytes() + key.read_bytes())
    wrong = {
        authority.intermediate: "which is not self-signed. Name the root that it comes from: CN=root",
        public: "is no PEM file of certificates",
        tmp_path / "text": "is no PEM file of certificates",
        tmp_path / "both": "has a private key",
        tmp_path / "missing": "No such file",
    }
    for path, words in wrong.items():
        with pytest.raises(TrustError, match=str(path)) as caught:
            check_trust(Trust(certificates=(path,)))
        assert words in str(caught.value)
    with pytest.raises(TrustError, match="is a certificate, expected a public key"):
        check_trust(Trust(keys=(authority.root,)))
