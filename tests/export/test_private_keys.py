"""Private keys: which are used, how their password is given, and that no one learns either."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.signed import Authority, make_key, signed_by, tiny_version, write_key
from tfserving.export.private_keys import PASSWORD_VARIABLE, SigningError
from tfserving.export.signing import key_signer
from tfserving.foundation.trust import Trust, accept

SECRET = "correct horse"  # noqa: S105 - of keys that the tests make


def refused(key: Path, *words: str, models: Path | None = None) -> None:
    with pytest.raises(SigningError) as caught:
        key_signer(key, models=models)
    text = str(caught.value)
    assert all(word in text for word in (str(key), *words)), text
    assert len(text.splitlines()) == 1
    assert SECRET not in text
    # A line of a PEM file's contents.
    assert not any(line in text for line in _lines(key) if len(line) > 40)


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def test_an_encrypted_key_signs_with_the_password_of_the_environment_which_is_gone_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, public = make_key(tmp_path, "owner", password=SECRET)
    monkeypatch.setenv(PASSWORD_VARIABLE, SECRET)
    signer = key_signer(key)
    # Builders and the processes that an export starts don't get it.
    assert PASSWORD_VARIABLE not in os.environ
    assert SECRET not in repr(signer)
    version = signed_by(tiny_version(tmp_path / "models"), signer)
    assert accept(version, "scaled", 1, Trust(keys=(public,))).signer


def test_an_encrypted_key_with_a_certificate_signs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv(PASSWORD_VARIABLE, SECRET)
    before = set(tmp_path.rglob("*"))
    signer = authority.signer("ann", password=SECRET)
    assert {path.name for path in set(tmp_path.rglob("*")) - before} == {"ann.key", "ann.pem"}
    version = signed_by(tiny_version(tmp_path / "models"), signer)
    assert accept(version, "scaled", 1, Trust(certificates=(authority.root,))).signer


def test_a_password_is_typed_on_a_terminal_without_being_shown(tmp_path: Path) -> None:
    key, _ = make_key(tmp_path, "owner", password=SECRET)
    code = "import sys, pathlib; from tfserving.export.private_keys import read_private_key as read; "
    code += "print(read(pathlib.Path(sys.argv[1]), None)[0].curve.name)"
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(key)], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = b""
        while b"Password of" not in shown:
            shown += os.read(ours, 1024)
        os.write(ours, SECRET.encode() + b"\n")
        while True:
            try:
                shown += os.read(ours, 1024)
            except OSError:
                # The terminal's other end is closed.
                break
    os.close(ours)
    assert process.returncode == 0, shown
    assert "secp256r1" in shown.decode()
    assert SECRET not in shown.decode()


def test_a_key_without_its_password_or_with_a_wrong_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = make_key(tmp_path, "owner", password=SECRET)
    refused(key, "is encrypted. Set its password in the environment variable TFSERVING_SIGN_PASSWORD")
    monkeypatch.setenv(PASSWORD_VARIABLE, f"{SECRET} battery")
    refused(key, "its password is wrong, or it is damaged")


def test_what_is_no_private_key_that_signs_is_refused(tmp_path: Path) -> None:
    key, public = make_key(tmp_path, "owner")
    write_key(tmp_path / "rsa.key", rsa.generate_private_key(65537, 2048))
    write_key(tmp_path / "ed25519.key", ed25519.Ed25519PrivateKey.generate())
    write_key(tmp_path / "bitcoin.key", ec.generate_private_key(ec.SECP256K1()))
    for name, text in (("cut.key", key.read_text()[:100]), ("text.key", "hello")):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(text)
    makes = "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY` makes one"
    refused(public, "is a public key, expected a private key", makes)
    refused(tmp_path / "rsa.key", "of the kind RSA, expected one of an elliptic curve: P-256, P-384, P-521", makes)
    refused(tmp_path / "ed25519.key", "of the kind Ed25519, expected one of an elliptic curve", makes)
    refused(tmp_path / "bitcoin.key", "of the curve secp256k1, expected one of", makes)
    refused(tmp_path / "cut.key", "can't be read: it is damaged")
    refused(tmp_path / "text.key", "is no PEM file, expected a private key")
    refused(tmp_path / "missing.key", "No such file or directory")
    refused(tmp_path, "Is a directory")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    key, _ = make_key(tmp_path, "owner")
    key.chmod(mode)
    refused(key, f"others can read the private key {key}: its mode is {mode:04o}. Run `chmod 600 {key}`")
    key.chmod(0o400)
    assert key_signer(key)


def test_a_key_in_the_folder_of_the_versions_is_refused_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "models/scaled").mkdir(parents=True)
    key, _ = make_key(tmp_path / "models/scaled", "owner")
    refused(key, "from where it would be published. Move it elsewhere", models=tmp_path / "models")
    (tmp_path / "link.key").symlink_to(key)
    refused(tmp_path / "link.key", "from where it would be published", models=tmp_path / "models")


def test_a_certificate_of_the_root_itself_needs_no_chain(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    key, certificate = authority.certificate("ann", direct=True)
    version = signed_by(tiny_version(tmp_path / "models"), key_signer(key, certificate))
    assert accept(version, "scaled", 1, Trust(certificates=(authority.root,))).signer


def test_a_certificate_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    key, certificate = authority.certificate("ann")
    other, public = make_key(tmp_path, "other")
    server = authority.certificate("server", signs=False)
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + authority.intermediate.read_bytes())
    for signer, chosen, chain, words in (
        (other, certificate, (), f"the certificate {certificate} is that of another private key"),
        (*server, (), "has neither the key usage digitalSignature nor the extended key usage codeSigning"),
        (key, both, (), f"{both} has 2 certificates, expected one. Name the others in `chain`"),
        (key, key, (), f"{key} has a private key, expected certificates only"),
        (key, public, (), f"{public} is no PEM file of certificates"),
        (key, certificate, (public,), f"{public} is no PEM file of certificates"),
        (key, tmp_path / "missing.pem", (), "missing.pem: No such file"),
    ):
        with pytest.raises(SigningError) as caught:
            key_signer(signer, chosen, chain)
        assert words in str(caught.value)


def test_signing_without_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfserving.foundation.extras.SIGNATURES", ("a_module_that_is_not_installed",))
    with pytest.raises(SigningError, match=r"`sign` needs the Python module .*Install the extra 'sign'"):
        key_signer(tmp_path / "any")


def test_a_public_key_of_a_private_key_is_made_as_the_documentation_shows(tmp_path: Path) -> None:
    key, public = tmp_path / "sign.key", tmp_path / "sign.pub"
    for command in (
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key)],
        ["openssl", "pkey", "-in", str(key), "-pubout", "-out", str(public)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    assert key.stat().st_mode & 0o077 == 0
    version = signed_by(tiny_version(tmp_path / "models"), key_signer(key))
    assert accept(version, "scaled", 1, Trust(keys=(public,))).signer
