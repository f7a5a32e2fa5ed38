"""Versions that are signed as they are exported, and those that exist: a version appears signed, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export import zoo
from tests.export.conftest import Project, digest, make_project
from tests.signed import Authority, make_key, read_signature, sign_with, tiny_version, write_signature
from tests.sigstore_instance import Instance, token
from tfserving.export.private_keys import SigningError
from tfserving.export.signing import key_signer, sigstore_signer
from tfserving.foundation.manifest import MANIFEST, SIGNATURE
from tfserving.foundation.trust import Trust, TrustError, accept

FLEET = "models:\n  scale: {builder: 'zoo:scale'}\n"


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose models.yaml signs and trusts, with version 1 of `scale`, to be read."""
    project = make_project(tmp_path_factory.mktemp("signed"))
    make_key(project.folder, "sign")
    fleet = f"{FLEET}sign: {{key: sign.key}}\ntrust: {{keys: [sign.pub]}}\n"
    (project.folder / "models.yaml").write_text(fleet)
    done = project.run("build", "scale", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["signed_by"].startswith(f"the key {project.folder}/sign.key (finger")
    return project


@pytest.fixture
def changed(signed: Project, tmp_path: Path) -> Project:
    """A copy, to be changed."""
    return Project(Path(shutil.copytree(signed.folder, tmp_path / "project")))


def test_what_models_yaml_signs_is_checked_and_shown_by_all_commands(signed: Project) -> None:
    accepted = accept(signed.folder / "models/scale/1", "scale", 1, Trust(keys=(signed.folder / "sign.pub",)))
    assert SIGNATURE not in accepted.manifest.files()
    done = signed.run("check", "scale")
    assert (done.returncode, done.stderr) == (0, "")
    assert f", signed by the key {signed.folder}/sign.pub (fingerprint " in done.stdout
    assert json.loads(signed.run("check", "--json").stdout)["versions"][0]["signed_by"] == accepted.signer
    assert "by the key" in signed.run("inspect", "scale").stdout
    found = json.loads(signed.run("inspect", "scale", "--json").stdout)["signed"]
    assert (found["by"], found["problem"]) == (accepted.signer, None)
    assert found["names"].startswith("the key with the fingerprint ")
    assert signed.run("lint", "scale").returncode == 0
    assert signed.run("diff", "scale/1", "scale/1").returncode == 0
    assert len(signed.run("list").stdout.splitlines()) == 1


def test_check_with_another_key_fails_and_names_both(signed: Project, tmp_path: Path) -> None:
    _, public = make_key(tmp_path, "other")
    done = signed.run("check", "scale", "--trust", str(public))
    assert done.returncode == 1
    assert "is not signed by anyone who is trusted: its signature names the key with the fingerprint" in done.stderr
    assert f"Trusted is only what is signed by the key {public}" in done.stderr
    done = signed.run("check", "scale", "--trust", str(public), "--trust", str(signed.folder / "sign.pub"))
    assert done.returncode == 0


def test_a_key_that_can_not_be_used_ends_the_command_before_anything_starts(signed: Project, tmp_path: Path) -> None:
    before = digest(signed.folder / "models")
    for command in (["build", "scale", "--sign"], ["sign", "scale", "--key"], ["check", "scale", "--trust"]):
        done = signed.run(*command, str(tmp_path / "missing"))
        assert done.returncode == 2
        assert done.stderr == f"Error: {tmp_path}/missing: No such file or directory\n"
    done = signed.run("check", "scale", "--trust", str(signed.folder / "sign.key"))
    assert done.returncode == 2
    assert "has a private key, which only the signer may have" in done.stderr
    assert digest(signed.folder / "models") == before


def test_a_key_in_the_folder_of_the_versions_signs_nothing(changed: Project) -> None:
    (changed.folder / "sign.key").rename(changed.folder / "models/sign.key")
    for command in (["build", "scale", "--sign"], ["sign", "scale", "--key"]):
        done = changed.run(*command, "models/sign.key")
        assert done.returncode == 2
        assert "from where it would be published" in done.stderr


def test_options_override_models_yaml_and_a_warning_names_what_is_not_served(changed: Project, tmp_path: Path) -> None:
    key, public = make_key(tmp_path, "other")
    done = changed.run("build", "scale", "--sign", str(key))
    assert done.returncode == 0, done.stderr
    assert f"Warning: the key {key} (fingerprint" in done.stderr
    assert "is not in `trust`, so this fleet serves none of these versions" in done.stderr
    assert f"scale: signed by the key {key} (fingerprint" in done.stdout
    assert accept(changed.folder / "models/scale/2", "scale", 2, Trust(keys=(public,))).signer
    done = changed.run("build", "scale", "--no-sign")
    assert done.returncode == 0, done.stderr
    assert "nobody signs, so this fleet serves none of these versions until `export sign`" in done.stderr
    assert not (changed.folder / "models/scale/3" / SIGNATURE).exists()
    done = changed.run("check", "scale/3")
    assert done.returncode == 1
    assert f"is not signed: it has no {SIGNATURE}" in done.stderr
    done = changed.run("build", "scale", "--no-sign", "--sign", str(key))
    assert done.returncode == 2


def test_an_unchanged_model_keeps_only_a_version_that_is_signed(changed: Project) -> None:
    done = changed.run("build", "scale", "--if-changed")
    assert "scale: unchanged, version 1" in done.stdout, done.stderr
    assert changed.names("scale") == {"1"}
    # Whoever removed the signature could have changed a weight so that its checksum stays the same.
    (changed.folder / "models/scale/1" / SIGNATURE).unlink()
    done = changed.run("build", "scale", "--if-changed")
    assert done.returncode == 0, done.stderr
    assert "version 1 is the same but is not kept: " in done.stderr
    assert "is not signed" in done.stderr
    assert changed.names("scale") == {"1", "2"}
    assert changed.run("check", "scale/2").returncode == 0


@pytest.mark.parametrize("other", [False, True], ids=["the same key", "another key"])
def test_without_trust_the_signing_key_verifies_what_is_kept(changed: Project, tmp_path: Path, other: bool) -> None:
    (changed.folder / "models.yaml").write_text(FLEET)
    key = make_key(tmp_path, "other")[0] if other else changed.folder / "sign.key"
    done = changed.run("build", "scale", "--if-changed", "--sign", str(key))
    assert done.returncode == 0, done.stderr
    assert changed.names("scale") == ({"1", "2"} if other else {"1"})
    assert (f"is not kept: it is not signed by the key {key}" in done.stderr) == other


def test_versions_that_exist_are_signed_and_signed_again_with_a_new_key(changed: Project, tmp_path: Path) -> None:
    version = changed.folder / "models/scale/1"
    key, public = make_key(tmp_path, "new")
    before = {name: content for name, content in digest(version).items() if name != SIGNATURE}
    done = changed.run("sign", "scale/1", "--key", str(key), "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["versions"]
    assert found["signed_by"].startswith(f"the key {key} (fingerprint")
    assert found["instead_of"].startswith("the key with the fingerprint ")
    assert accept(version, "scale", 1, Trust(keys=(public,))).signer
    assert {name: content for name, content in digest(version).items() if name != SIGNATURE} == before
    assert changed.names("scale") == {"1"}
    (version / SIGNATURE).unlink()
    done = changed.run("sign")
    assert done.stdout.startswith(f"models/scale/1: signed by the key {changed.folder}/sign.key (fingerprint")
    # Whatever lies there is replaced.
    write_signature(version, "{")
    assert ", instead of a signature that can't be read" in changed.run("sign").stdout
    assert changed.run("check", "scale").returncode == 0


def test_a_changed_version_or_one_under_another_number_is_not_signed(changed: Project) -> None:
    version = changed.folder / "models/scale/1"
    shutil.copytree(version, version.parent / "2")
    signature = (version / SIGNATURE).read_bytes()
    (version / "fingerprint.pb").write_bytes(b"changed")
    done = changed.run("sign", "scale/1", "scale/2")
    assert done.returncode == 1
    assert "Error: models/scale/1: " in done.stderr
    assert "fingerprint.pb: got 7 bytes" in done.stderr
    assert "Error: models/scale/2: it is version 1 of scale, and not signed as another" in done.stderr
    assert (version / SIGNATURE).read_bytes() == signature
    assert changed.names("scale") == {"1", "2"}


def test_attack_a_version_that_changes_while_it_is_signed_gets_no_signature(tmp_path: Path) -> None:
    key, _ = make_key(tmp_path, "owner")
    version = tiny_version(tmp_path / "models")
    judged = json.loads((version / MANIFEST).read_text())["digest"]
    shutil.rmtree(version)
    tiny_version(tmp_path / "models", graph=b"backdoor")
    with pytest.raises(SigningError, match="was changed while it was being signed"):
        key_signer(key).sign(version, tmp_path, judged)
    assert not (version / SIGNATURE).exists()


def test_sign_without_a_signer_is_a_wrong_use(changed: Project) -> None:
    (changed.folder / "models.yaml").write_text(FLEET)
    done = changed.run("sign", "scale")
    assert done.returncode == 2
    assert "nobody signs. Name a private key: --key KEY, or `sign: {key: KEY}` in models.yaml" in done.stderr


def test_a_certificate_of_models_yaml_signs(changed: Project, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    key, certificate = authority.certificate("ann", "ann@example.com")
    (changed.folder / "models.yaml").write_text(
        f"{FLEET}sign: {{key: {key}, certificate: {certificate}, chain: [{authority.intermediate}]}}\n"
        f"trust: {{certificates: [{authority.root}], certificate_names: [ann@example.com]}}\n"
    )
    done = changed.run("sign", "scale", "--json")
    assert json.loads(done.stdout)["versions"][0]["signed_by"] == "the certificate of CN=ann", done.stderr
    done = changed.run("check", "scale")
    assert done.returncode == 0, done.stderr
    assert "signed by the certificate of CN=ann, issued by CN=root intermediate" in done.stdout


def test_inspect_without_trust_names_the_signer_as_not_verified(changed: Project) -> None:
    (changed.folder / "models.yaml").write_text(FLEET)
    shown = " ".join(changed.run("inspect", "scale").stdout.split())
    assert "signed names the key with the fingerprint" in shown
    assert "not verified, because models.yaml has no `trust`" in shown
    (changed.folder / "models/scale/1" / SIGNATURE).unlink()
    assert " signed no " in " ".join(changed.run("inspect", "scale").stdout.split())


def test_a_signature_that_fails_leaves_no_version(
    export_here: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", token("ann@example.com"))
    with Instance(tmp_path).running() as instance:
        signer = sigstore_signer(instance.config)
    # The instance is gone when the version is finished.
    with pytest.raises(SigningError, match="Sigstore can't be reached"):
        export_here(zoo.scale, signer=signer)
    assert not (tmp_path / "models/model").exists()


def test_a_model_of_a_signed_version_is_adopted_without_its_signature(signed: Project, project: Project) -> None:
    version = signed.folder / "models/scale/1"
    assert read_signature(version)
    done = project.run("build", f"again={version}")
    assert done.returncode == 0, done.stderr
    made = project.folder / "models/again/1"
    assert not (made / SIGNATURE).exists()
    key, public = make_key(project.folder, "own")
    sign_with(made, key)
    assert accept(made, "again", 1, Trust(keys=(public,))).signer
    with pytest.raises(TrustError):
        accept(made, "again", 1, Trust(keys=(signed.folder / "sign.pub",)))
