"""Whoever can write to a version's folder gets nothing accepted that the trusted key did not sign."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.signed import (
    make_key,
    read_signature,
    sign_with,
    tiny_version,
    with_manifest,
    write_key,
    write_public_key,
    write_signature,
)
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE
from tfserving.foundation.trust import Trust, TrustError, accept, check_trust
from tfserving.foundation.version_files import VersionError


@dataclass(frozen=True)
class Signed:
    """A version that the owner's key signed; an attacker, who has another key; whom the server trusts."""

    version: Path
    key: Path
    attacker: Path
    attacker_public: Path
    trust: Trust

    def refused(self, *words: str, error: type[VersionError] = VersionError) -> str:
        with pytest.raises(error) as caught:
            accept(self.version, "scaled", 1, self.trust)
        text = str(caught.value)
        assert all(word in text for word in words), text
        if error is TrustError:
            assert len(text.splitlines()) == 1
            assert len(text) < 1500
        return text

    def accepted(self) -> str | None:
        return accept(self.version, "scaled", 1, self.trust).signer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    folder = tmp_path_factory.mktemp("signed")
    key, public = make_key(folder, "owner")
    attacker, attacker_public = make_key(folder, "attacker")
    version = sign_with(tiny_version(folder / "models"), key)
    return Signed(version, key, attacker, attacker_public, Trust(keys=(public,)))


@pytest.fixture
def signed(made: Signed, tmp_path: Path) -> Signed:
    """A copy, to be changed."""
    version = Path(shutil.copytree(made.version, tmp_path / "models/scaled/1"))
    return Signed(version, made.key, made.attacker, made.attacker_public, made.trust)


def fingerprint(public: Path) -> str:
    # As docs/provenance.md shows it, with sha256sum.
    run = ["openssl", "pkey", "-pubin", "-in", str(public), "-pubout"]
    return hashlib.sha256(subprocess.run(run, check=True, capture_output=True).stdout).hexdigest()[:16]


def test_what_the_trusted_key_signed_is_accepted_and_the_signer_is_named(signed: Signed) -> None:
    (public,) = signed.trust.keys
    assert signed.accepted() == f"the key {public} (fingerprint {fingerprint(public)})"
    assert accept(signed.version, "scaled", 1, None).signer is None


def test_attack_an_unsigned_version_is_refused(signed: Signed) -> None:
    (signed.version / SIGNATURE).unlink()
    (public,) = signed.trust.keys
    signed.refused(f"is not signed: it has no {SIGNATURE}", str(public), error=TrustError)


def test_attack_a_changed_file_is_refused(signed: Signed) -> None:
    (signed.version / SAVED_MODEL).write_bytes(b"grapf")
    signed.refused(f"{SAVED_MODEL}: got SHA-256")


def test_attack_a_changed_file_with_a_manifest_that_lists_it_is_refused(signed: Signed) -> None:
    (signed.version / SAVED_MODEL).write_bytes(b"another graph")
    with_manifest(signed.version)
    accept(signed.version, "scaled", 1, None)
    signed.refused("is not what the key", f"signed: {MANIFEST}, {SAVED_MODEL} differ", error=TrustError)


def test_attack_two_files_that_change_places_are_refused(signed: Signed) -> None:
    one, other = signed.version / SAVED_MODEL, signed.version / "variables/variables.index"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    with_manifest(signed.version)
    signed.refused("variables/variables.index differ", error=TrustError)


def test_attack_an_added_file_is_refused_with_and_without_a_manifest_that_lists_it(signed: Signed) -> None:
    (signed.version / "assets").mkdir()
    (signed.version / "assets/more.txt").write_text("more")
    signed.refused("assets/more.txt is not in the manifest")
    with_manifest(signed.version)
    signed.refused("assets/more.txt", "differ", error=TrustError)


@pytest.mark.parametrize("name", [".git/hooks/post-checkout", ".gitattributes", ".github/x", ".gitignore"])
def test_attack_a_file_that_the_library_ignores_is_refused(signed: Signed, name: str) -> None:
    path = signed.version / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("hidden")
    signed.refused(f"{name} is not in the manifest")
    with_manifest(signed.version)
    signed.refused(name, "differ", error=TrustError)


def test_attack_names_in_a_manifest_never_reach_the_terminal_as_they_are(signed: Signed) -> None:
    name = "\x1b[2Jall files are intact\n"
    (signed.version / name).write_text("hidden")
    with_manifest(signed.version, model=f"scaled\n{500 * 'x'}")
    text = signed.refused("is version 1 of 'scaled")
    assert text.isprintable()
    assert len(text) < 500
    with_manifest(signed.version)
    for change in ((signed.version / name).write_text, lambda _: (signed.version / name).unlink()):
        change("changed")
        assert all(line.isprintable() for line in signed.refused("intact").splitlines())


def test_attack_a_removed_file_is_refused(signed: Signed) -> None:
    (signed.version / "variables/variables.index").unlink()
    signed.refused("variables/variables.index is missing")
    with_manifest(signed.version)
    signed.refused("variables/variables.index", "differ", error=TrustError)


@pytest.mark.parametrize("name", [SAVED_MODEL, MANIFEST, SIGNATURE])
def test_attack_a_link_in_place_of_a_file_is_refused(signed: Signed, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (signed.version / name).rename(elsewhere)
    (signed.version / name).symlink_to(elsewhere)
    signed.refused("is a link")


def test_attack_a_pipe_in_place_of_the_signature_is_refused_at_once(signed: Signed) -> None:
    (signed.version / SIGNATURE).unlink()
    os.mkfifo(signed.version / SIGNATURE)
    signed.refused("is neither a file nor a folder")


def test_attack_a_version_signed_by_another_is_refused_and_both_are_named(signed: Signed) -> None:
    (signed.version / SAVED_MODEL).write_bytes(b"backdoor")
    sign_with(with_manifest(signed.version), signed.attacker)
    (public,) = signed.trust.keys
    signed.refused(
        f"its signature names the key with the fingerprint {fingerprint(signed.attacker_public)}, which is not",
        f"Trusted is only what is signed by the key {public} (fingerprint {fingerprint(public)})",
        error=TrustError,
    )


def test_attack_a_signature_that_only_names_the_trusted_key_is_refused(signed: Signed) -> None:
    hint = read_signature(signed.version)["verificationMaterial"]
    sign_with(signed.version, signed.attacker)
    write_signature(signed.version, read_signature(signed.version) | {"verificationMaterial": hint})
    signed.refused("did not make it", error=TrustError)


def test_attack_an_older_signed_version_under_a_newer_number_is_refused(signed: Signed) -> None:
    newer = Path(shutil.copytree(signed.version, signed.version.parent / "2"))
    with pytest.raises(VersionError, match="2 is version 1 of scaled, expected version 2 of scaled"):
        accept(newer, "scaled", 2, signed.trust)
    with_manifest(newer, number=2)
    with pytest.raises(TrustError, match=r"is not what the key .* signed: assets\.extra/manifest\.json differ"):
        accept(newer, "scaled", 2, signed.trust)


def test_attack_a_signed_version_of_another_model_is_refused(signed: Signed, tmp_path: Path) -> None:
    other = Path(shutil.copytree(signed.version, tmp_path / "models/fraud/1"))
    with pytest.raises(VersionError, match="is version 1 of scaled, expected version 1 of fraud"):
        accept(other, "fraud", 1, signed.trust)
    with_manifest(other, model="fraud")
    with pytest.raises(TrustError, match="is not what the key"):
        accept(other, "fraud", 1, signed.trust)


def test_attack_the_signature_of_another_version_is_refused(signed: Signed, tmp_path: Path) -> None:
    other = sign_with(tiny_version(tmp_path / "elsewhere", number=2, graph=b"another"), signed.key)
    shutil.copyfile(other / SIGNATURE, signed.version / SIGNATURE)
    signed.refused("is not what the key", MANIFEST, SAVED_MODEL, error=TrustError)


def test_keys_are_replaced_by_trusting_both_then_signing_again_then_removing_the_old(
    signed: Signed, tmp_path: Path
) -> None:
    key, public = make_key(tmp_path, "new")
    (old,) = signed.trust.keys
    both = Trust(keys=(public, old))
    assert str(old) in str(accept(signed.version, "scaled", 1, both).signer)
    sign_with(signed.version, key)
    assert str(public) in str(accept(signed.version, "scaled", 1, both).signer)
    signed.refused("names the key with the fingerprint", error=TrustError)
    sign_with(signed.version, signed.key)
    with pytest.raises(TrustError, match="is not signed by anyone who is trusted"):
        accept(signed.version, "scaled", 1, Trust(keys=(public,)))


def test_other_tools_verify_the_signature_and_their_signature_is_accepted(signed: Signed) -> None:
    (public,) = signed.trust.keys

    def model_signing(command: str, *options: object) -> subprocess.CompletedProcess[str]:
        where = ["--signature", signed.version / SIGNATURE, *options, signed.version]
        run = [sys.executable, "-m", "model_signing", command, "key", *map(str, where)]
        return subprocess.run(run, text=True, capture_output=True, check=False, timeout=100)

    done = model_signing("verify", "--public_key", public)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr
    (signed.version / SIGNATURE).unlink()
    done = model_signing("sign", "--private_key", signed.key)
    assert done.returncode == 0, done.stderr
    assert signed.accepted()


@pytest.mark.parametrize(
    ("curve", "words"),
    [(ec.SECP384R1(), ""), (ec.SECP521R1(), ""), (ec.SECP256K1(), "curve secp256k1"), (ec.SECP224R1(), "secp224r1")],
    ids=lambda one: getattr(one, "name", "refused" if one else "trusted"),
)
def test_public_keys_of_three_curves_are_trusted(tmp_path: Path, curve: ec.EllipticCurve, words: str) -> None:
    public = write_public_key(tmp_path / "a.pub", ec.generate_private_key(curve))
    if not words:
        check_trust(Trust(keys=(public,)))
        return
    with pytest.raises(TrustError, match=f"{words}, expected one of an elliptic curve: P-256, P-384, P-521"):
        check_trust(Trust(keys=(public,)))


def _wrong_files(folder: Path) -> dict[str, str]:
    """Files that are no public key that can be trusted, and what the error names."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(folder / "private.key", key)
    write_key(folder / "locked.key", key, "secret")
    write_public_key(folder / "rsa.pub", rsa.generate_private_key(65537, 2048))
    write_public_key(folder / "ed25519.pub", ed25519.Ed25519PrivateKey.generate())
    write_public_key(folder / "one.pub", key)
    (folder / "two.pub").write_bytes(2 * (folder / "one.pub").read_bytes())
    (folder / "text.pub").write_text("hello")
    (folder / "cut.pub").write_text((folder / "one.pub").read_text()[:90])
    (folder / "empty.pub").touch()
    (folder / "large.pub").write_bytes(bytes(2 << 20))
    (folder / "folder.pub").mkdir()
    return {
        "private.key": "has a private key, which only the signer may have",
        "locked.key": "has a private key",
        "rsa.pub": "is a public key of the kind RSA, expected one of an elliptic curve",
        "ed25519.pub": "is a public key of the kind Ed25519",
        "two.pub": "has 2 keys, expected one",
        "text.pub": "is no PEM file of a public key",
        "cut.pub": "is no PEM file of a public key",
        "empty.pub": "is no PEM file of a public key",
        "large.pub": "has more than 1048576 bytes",
        "folder.pub": "Is a directory",
        "missing.pub": "No such file or directory",
    }


def test_a_file_that_is_no_public_key_is_refused_before_anything_starts(signed: Signed, tmp_path: Path) -> None:
    for name, words in _wrong_files(tmp_path).items():
        trust = Trust(keys=(*signed.trust.keys, tmp_path / name))
        for call in (
            lambda trust=trust: check_trust(trust),
            lambda trust=trust: accept(signed.version, "scaled", 1, trust),
        ):
            with pytest.raises(TrustError) as caught:
                call()
            assert str(tmp_path / name) in str(caught.value)
            assert words in str(caught.value)
            assert len(str(caught.value).splitlines()) == 1


def test_a_signature_without_the_extra_names_it(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfserving.foundation.extras.SIGNATURES", ("a_module_that_is_not_installed",))
    for call in (lambda: check_trust(signed.trust), signed.accepted):
        with pytest.raises(TrustError, match=r"`trust` needs the Python module .*Install the extra 'sign'"):
            call()
