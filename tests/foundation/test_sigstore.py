"""Versions that are signed without a key, as an identity that Sigstore certifies. The instance is of the tests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.signed import read_signature, signed_by, tiny_version, with_manifest, write_signature
from tests.sigstore_instance import Instance, token
from tfserving.export.private_keys import SigningError
from tfserving.export.signing import sigstore_signer
from tfserving.foundation.manifest import SAVED_MODEL
from tfserving.foundation.trust import Identity, Trust, TrustError, accept, check_trust

ANN = Identity("ann@example.com", "https://tokens.example.com")


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with Instance(tmp_path_factory.mktemp("sigstore")).running() as running:
        yield running


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A job in CI with the identity of Ann, as GitLab gives it."""
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", token(ANN.identity))
    return monkeypatch


@pytest.fixture
def signed(instance: Instance, job: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    assert job
    return signed_by(tiny_version(tmp_path / "models"), sigstore_signer(instance.config))


def trust(instance: Instance, *identities: Identity) -> Trust:
    return Trust(identities=identities, sigstore_config=instance.config)


def refused(version: Path, trust: Trust, *words: str) -> None:
    with pytest.raises(TrustError) as caught:
        accept(version, "scaled", 1, trust)
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value).splitlines()) == 1


def test_a_job_signs_with_its_identity_which_is_verified_without_a_network(instance: Instance, signed: Path) -> None:
    someone = Identity("else@example.com", ANN.issuer)
    trusted = trust(instance, someone, ANN)
    check_trust(trusted)
    assert accept(signed, "scaled", 1, trusted).signer == "ann@example.com (Sigstore, https://tokens.example.com)"


def test_attack_another_identity_or_issuer_is_refused_and_the_signer_is_named(instance: Instance, signed: Path) -> None:
    for other in (Identity("else@example.com", ANN.issuer), Identity(ANN.identity, "https://evil.example.com")):
        refused(
            signed,
            trust(instance, other),
            "its signature names ann@example.com (Sigstore, https://tokens.example.com), which is not verified",
            f"Trusted is only what is signed by {other}",
        )


def test_attack_an_identity_of_another_instance_is_refused(signed: Path, tmp_path: Path) -> None:
    with Instance(tmp_path).running() as other:
        refused(signed, trust(other, ANN), "failed to build timestamp certificate chain")


def test_attack_a_changed_file_is_refused(instance: Instance, signed: Path) -> None:
    (signed / SAVED_MODEL).write_bytes(b"backdoor")
    with_manifest(signed)
    refused(signed, trust(instance, ANN), "is not what ann@example.com", SAVED_MODEL)


def test_attack_a_signature_without_its_entry_in_the_log_is_refused(instance: Instance, signed: Path) -> None:
    content: dict[str, Any] = read_signature(signed)
    (entry,) = content["verificationMaterial"]["tlogEntries"]
    for entries in ([], [entry | {"inclusionProof": None}], [entry | {"inclusionPromise": None}], [entry, entry]):
        material = content["verificationMaterial"] | {"tlogEntries": entries}
        write_signature(signed, content | {"verificationMaterial": material})
        refused(signed, trust(instance, ANN), "is not signed by anyone who is trusted")


def test_without_a_network_the_public_instance_fails_in_one_line_at_once(job: pytest.MonkeyPatch, signed: Path) -> None:
    # A port on which nobody listens stands for the network that is not there.
    job.setenv("https_proxy", "http://127.0.0.1:9")
    start = time.monotonic()
    refused(signed, Trust(identities=(ANN,)), "Sigstore's keys can't be loaded", "or `sigstore_config`")
    with pytest.raises(SigningError, match=r"Sigstore can't be reached.*needs a network") as caught:
        sigstore_signer()
    assert len(str(caught.value).splitlines()) == 1
    assert time.monotonic() - start < 10


def test_an_instance_that_does_not_respond_fails_in_one_line_without_the_token(
    instance: Instance, job: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = tiny_version(tmp_path / "models")
    config = tmp_path / "gone.json"
    text = instance.config.read_text()
    config.write_text(text.replace(instance.url, "http://127.0.0.1:9"))
    with pytest.raises(SigningError, match="Sigstore can't be reached"):
        sigstore_signer(config)
    # The identity's service responds, the others don't.
    content = json.loads(text)
    content["signingConfig"]["caUrls"][0]["url"] = "http://127.0.0.1:9"
    config.write_text(json.dumps(content))
    signer = sigstore_signer(config)
    with pytest.raises(SigningError, match="Sigstore can't be reached") as caught:
        signed_by(version, signer)
    assert not any(part in str(caught.value) for part in token(ANN.identity).split("."))
    assert len(str(caught.value).splitlines()) == 1
    assert not (version / "assets.extra/model.sig").exists()
    # A token for others than Sigstore is refused before it is sent anywhere.
    job.setenv("SIGSTORE_ID_TOKEN", "eyJhbGciOiJub25lIn0.e30.")
    with pytest.raises(SigningError, match="made no signature: Malformed token payload"):
        signed_by(version, sigstore_signer(instance.config))


def test_without_an_identity_and_a_terminal_nothing_waits_for_a_browser(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITLAB_CI", "GITHUB_ACTIONS", "SIGSTORE_ID_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SigningError, match="this job has no identity that Sigstore knows, and there is no terminal"):
        sigstore_signer(instance.config)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"mediaType": 7}', "[" * 100_000], ids=range(5))
def test_what_is_no_configuration_of_an_instance_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(TrustError, match=r"config\.json is no client trust configuration of Sigstore") as caught:
        check_trust(Trust(identities=(ANN,), sigstore_config=tmp_path / "config.json"))
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(SigningError, match=r"config\.json is no client trust configuration of Sigstore"):
        sigstore_signer(tmp_path / "config.json")
