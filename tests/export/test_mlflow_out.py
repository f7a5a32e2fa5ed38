"""Versions are registered in MLflow: whole or not at all, once, and as they are signed. And they come back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.export import mlflow_store
from tests.export.conftest import Project, digest
from tests.exporting import run_export
from tests.signed import make_key, sign_with, tiny_version, with_manifest
from tfserving.export.manifest import read_manifest
from tfserving.export.mlflow.client import download, mlflow_client
from tfserving.export.mlflow.register import RegisterError, check_name


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of MLflow, which commands find."""
    mlflow_store.use(monkeypatch, tmp_path / "mlflow")
    return tmp_path / "mlflow"


def publish(folder: Path, version: str, *more: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The exit code of publishing `version` to models:/scaled, and what it printed."""
    done = run_export(folder, "publish", version, "models:/scaled", *more, env=env)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr.strip()


def artifacts(store: Path) -> Path:
    """Where the only logged model has its files."""
    (found,) = store.glob("*/models/*/artifacts")
    return found


def test_a_version_is_registered_and_comes_back_as_a_version_with_the_same_files(
    project: Project, version: Path, store: Path
) -> None:
    code, printed = publish(version.parents[2], "scale/1", "--json")
    assert (code, json.loads(printed)["uri"], json.loads(printed)["created"]) == (0, "models:/scaled/1", True)
    manifest = read_manifest(version)
    (registered,) = mlflow_store.versions("scaled")
    assert (
        registered.tags.items()
        >= {
            "tfserving.model": "scale",
            "tfserving.version": "1",
            "tfserving.manifest": manifest.digest,
        }.items()
    )
    assert {metric.key: metric.value for metric in registered.metrics} == {
        name: getattr(value, "value", value) for name, value in manifest.metrics.items()
    }
    model = yaml.safe_load((artifacts(store) / "MLmodel").read_text())
    assert model["flavors"]["tensorflow"]["saved_model_dir"] == "saved_model"
    (name, spec), *_ = manifest.signatures["serving_default"].inputs.items()
    described = json.loads(model["signature"]["inputs"])[0]
    assert (described["name"], described["tensor-spec"]["dtype"]) == (name, spec.dtype)
    assert described["tensor-spec"]["shape"] == [-1 if size is None else size for size in spec.shape or ()]
    assert digest(artifacts(store) / "saved_model") == digest(version)
    done = project.run("build", "back=models:/scaled/1")
    assert done.returncode == 0, done.stderr
    back = read_manifest(project.folder / "models/back/1")
    assert back.metrics == manifest.metrics
    same = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")
    assert {back.files[name].sha256 for name in same} == {manifest.files[name].sha256 for name in same}
    assert f"models:/scaled/1: version 1, saved_model of the MLflow model {model['model_uuid']}" in str(
        back.saved_model
    )
    assert project.run("check", "back").returncode == 0


@pytest.mark.usefixtures("store")
def test_a_version_is_registered_once(tmp_path: Path) -> None:
    tiny_version(tmp_path / "models")
    tiny_version(tmp_path / "models", number=2, graph=b"another")
    assert publish(tmp_path, "scaled/1")[1].startswith("models:/scaled/1: registered with its run ")
    assert publish(tmp_path, "scaled/1") == (
        0,
        "models:/scaled/1 has this version already, and all its files are the same\n",
    )
    assert publish(tmp_path, "scaled/2")[1].startswith("models:/scaled/2: registered")
    assert [one.version for one in mlflow_store.versions("scaled")] == [1, 2]


@pytest.mark.usefixtures("store")
def test_a_failed_upload_registers_nothing_and_the_next_one_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_version(tmp_path / "models")
    (tmp_path / "full").write_text("where the folder of artifacts should be")
    with mlflow_client("the test") as mlflow:
        client = mlflow.MlflowClient()
        client.create_experiment("broken", artifact_location=(tmp_path / "full").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "broken")
    code, error = publish(tmp_path, "scaled/1")
    assert (code, error.splitlines()[-1].startswith("Error: models:/scaled: ")) == (1, True), error
    assert mlflow_store.versions("scaled") == []
    # Both are listed by MLflow's own tools as failed.
    with mlflow_client("the test") as mlflow:
        experiment = mlflow.MlflowClient().get_experiment_by_name("broken").experiment_id
        (run,) = mlflow.MlflowClient().search_runs([experiment])
        (model,) = mlflow.MlflowClient().search_logged_models([experiment])
    assert (run.info.status, model.status) == ("FAILED", "FAILED")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "Default")
    assert publish(tmp_path, "scaled/1")[0] == 0
    assert [one.version for one in mlflow_store.versions("scaled")] == [1]


@pytest.mark.usefixtures("store")
def test_with_trust_the_signer_is_a_tag_and_the_signature_is_registered_too(tmp_path: Path) -> None:
    private, public = make_key(tmp_path, "release")
    sign_with(tiny_version(tmp_path / "models"), private)
    (tmp_path / "models.yaml").write_text("models:\n  scaled: {builder: 'a:b'}\ntrust: {keys: [release.pub]}\n")
    code, printed = publish(tmp_path, "scaled/1")
    assert (code, f"signed by the key {public}" in printed) == (0, True), printed
    (registered,) = mlflow_store.versions("scaled")
    assert registered.tags["tfserving.signer"].startswith("the key ")
    back = download("models:/scaled/1", tmp_path / "back") / "saved_model"
    assert digest(back) == digest(tmp_path / "models/scaled/1")


def trusting(folder: Path) -> Path:
    """A signed version in a project that trusts its signer; returns the version."""
    private, _ = make_key(folder, "release")
    (folder / "models.yaml").write_text("models:\n  scaled: {builder: 'a:b'}\ntrust: {keys: [release.pub]}\n")
    return sign_with(tiny_version(folder / "models"), private)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("attack", ["changed", "manifest", "unsigned", "other-key", "added"])
def test_attack_a_changed_version_is_refused_before_anything_is_registered(tmp_path: Path, attack: str) -> None:
    version = trusting(tmp_path)
    if attack == "added":
        (version / "more").write_text("more")
    elif attack != "other-key":
        (version / "saved_model.pb").write_text("changed")
    if attack in ("manifest", "unsigned"):
        with_manifest(version)
    if attack == "unsigned":
        (version / "assets.extra/model.sig").unlink()
    if attack == "other-key":
        sign_with(version, make_key(tmp_path, "mallory")[0])
    code, error = publish(tmp_path, "scaled/1")
    assert (code, str(version) in error) == (1, True), error
    assert mlflow_store.versions("scaled") == []


def test_attack_a_registered_version_whose_files_were_changed_is_not_taken_for_this_one(
    tmp_path: Path, store: Path
) -> None:
    trusting(tmp_path)
    assert publish(tmp_path, "scaled/1")[0] == 0
    stored = artifacts(store) / "saved_model"
    (stored / "saved_model.pb").write_text("changed")
    with_manifest(stored)
    code, error = publish(tmp_path, "scaled/1")
    assert (code, "models:/scaled/1" in error) == (1, True), error
    assert [one.version for one in mlflow_store.versions("scaled")] == [1]


@pytest.mark.usefixtures("store")
def test_attack_another_version_with_the_tag_of_this_manifest_is_not_taken_for_it(tmp_path: Path) -> None:
    version = trusting(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(version, other / "saved_model")
    (other / "saved_model/saved_model.pb").write_text("another graph")
    forged: dict[str, Any] = {"tfserving.manifest": read_manifest(version).digest}
    mlflow_store.log(other, "scaled", **forged)
    code, error = publish(tmp_path, "scaled/1")
    assert (code, "models:/scaled/1: " in error, "saved_model.pb: got 13 bytes" in error) == (1, True, True), error
    assert [one.version for one in mlflow_store.versions("scaled")] == [1]


@pytest.mark.parametrize("destination", ["models:/", "models:/a/3", "models:/a@best", "models:/a:b", "models:/a'b"])
def test_a_destination_names_a_registered_model(destination: str) -> None:
    with pytest.raises(RegisterError, match="expected models:/NAME"):
        check_name(destination)


def test_a_server_that_does_not_listen_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_version(tmp_path / "models")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:a-secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, error = publish(tmp_path, "scaled/1")
    assert (code, "MLFLOW_TRACKING_URI is http://***@127.0.0.1:9." in error) == (1, True), error
    assert "a-secret" not in error


def test_without_mlflow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_version(tmp_path / "models")
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    code, error = publish(tmp_path, "scaled/1")
    assert (code, "Install the extra 'mlflow'" in error) == (1, True)


def fetch(folder: Path, *more: str) -> tuple[int, str]:
    """The exit code of fetching version 1 of `scaled` from models:/scaled into a project's folder `fetched`."""
    done = run_export(folder, "fetch", "models:/scaled", "scaled/1", "--folder", "fetched", *more)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr.strip()


@pytest.mark.usefixtures("store")
def test_a_registered_version_is_listed_and_fetched_as_it_was_signed(tmp_path: Path) -> None:
    version = trusting(tmp_path)
    assert publish(tmp_path, "scaled/1")[0] == 0
    listed = run_export(tmp_path, "list", "models:/scaled", "--json")
    assert listed.returncode == 0, listed.stderr
    (model,) = json.loads(listed.stdout)["models"]
    assert [one["version"] for one in model["versions"]] == [1]
    code, printed = fetch(tmp_path)
    assert (code, "signed by the key" in printed) == (0, True), printed
    assert digest(tmp_path / "fetched/scaled/1") == digest(version)
    assert "exists already, and is the same" in fetch(tmp_path)[1]
    done = run_export(tmp_path, "fetch", "models:/scaled", "scaled/2", "--folder", "fetched")
    assert (done.returncode, "models:/scaled has no version 2 of scaled" in done.stderr) == (1, True)


@pytest.mark.parametrize("attack", ["changed", "manifest", "unsigned", "other-key", "added", "another-number"])
def test_attack_a_version_that_was_changed_in_mlflow_is_not_fetched(tmp_path: Path, store: Path, attack: str) -> None:
    trusting(tmp_path)
    assert publish(tmp_path, "scaled/1")[0] == 0
    stored = artifacts(store) / "saved_model"
    if attack == "added":
        (stored / "more").write_text("more")
        with_manifest(stored)
    elif attack == "another-number":
        with_manifest(stored, number=2)
    elif attack != "other-key":
        (stored / "saved_model.pb").write_text("other")
    if attack in ("manifest", "unsigned"):
        with_manifest(stored)
    if attack == "unsigned":
        (stored / "assets.extra/model.sig").unlink()
    if attack == "other-key":
        sign_with(stored, make_key(tmp_path, "mallory")[0])
    code, error = fetch(tmp_path)
    assert (code, "models:/scaled" in error) == (1, True), error
    assert not list((tmp_path / "fetched").glob("*/*/*"))


@pytest.mark.usefixtures("store")
def test_attack_a_newer_registration_of_the_same_number_is_refused_and_serves_nothing(tmp_path: Path) -> None:
    version = trusting(tmp_path)
    assert publish(tmp_path, "scaled/1")[0] == 0
    other = tmp_path / "other"
    shutil.copytree(version, other / "saved_model")
    (other / "saved_model/saved_model.pb").write_text("another graph")
    with_manifest(other / "saved_model")
    mlflow_store.log(other, "scaled", **{"tfserving.model": "scaled", "tfserving.version": "1"})
    code, error = fetch(tmp_path)
    assert (code, "models:/scaled/scaled/1 " in error) == (1, True), error
    assert not list((tmp_path / "fetched").glob("*/*/*"))
