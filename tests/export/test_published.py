"""Versions in folders and object stores: listed without their weights, and fetched whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
import yaml
from moto.server import ThreadedMotoServer

from tests.export.conftest import ROOT
from tests.export.registries import changed, left
from tests.exporting import run_export
from tests.signed import make_key, sign_with, tiny_version, with_manifest
from tfserving.export.manifest import hash_files
from tfserving.export.published.fetch import FetchError, fetch
from tfserving.export.published.listing import Known, listed
from tfserving.export.published.source import opened
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE
from tfserving.foundation.store import PUBLISHING, Limits
from tfserving.foundation.trust import Trust


class Owner:
    """Who signs versions 1 to 3 of `scaled`, in `models`."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        key, self.public = make_key(folder, "owner")
        self.trust = Trust(keys=(self.public,))
        for number in (1, 2, 3):
            sign_with(tiny_version(self.models, number=number, graph=b"graph %d" % number), key)
        sign_with(tiny_version(self.models, model="other", number=2), key)


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    return Owner(tmp_path_factory.mktemp("owner"))


@pytest.fixture
def store(owner: Owner, tmp_path: Path) -> Path:
    """A folder with a copy of the versions, which others can write to."""
    return shutil.copytree(owner.models, tmp_path / "store")


@pytest.fixture(scope="module")
def bucket(owner: Owner) -> Iterator[dict[str, str]]:
    """The environment of a command that uses an S3 server, which has version 3 below s3://models/team."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            system = s3fs.S3FileSystem()
            system.mkdir("models")
            system.put(str(owner.models / "scaled/3"), "models/team/scaled/3", recursive=True)
        yield env
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


def fetched(url: str | Path, wanted: int | None, folder: Path, trust: Trust | None = None) -> Any:
    with opened(str(url)) as source:
        return fetch(source, "scaled", wanted, folder, trust, Limits())


def versions(url: str | Path, trust: Trust | None = None, newest: int = 10) -> dict[int, Any]:
    with opened(str(url)) as source:
        return {one.version: one for one in listed(source, "scaled", newest, Known(trust), Limits()).versions}


def test_an_object_store_is_listed_and_fetched_from(owner: Owner, bucket: dict[str, str], tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        # It keeps the endpoint.
        s3fs.S3FileSystem.clear_instance_cache()
        done = run_export(tmp_path, *words, env=bucket)
        assert done.returncode == 0, done.stderr
        return done

    found = json.loads(run("list", "s3://models/team", "--trust", str(owner.public), "--json").stdout)
    (model,) = found["models"]
    assert (found["url"], model["name"], model["older"], model["unfinished_uploads"]) == (
        "s3://models/team",
        "scaled",
        0,
        0,
    )
    (one,) = model["versions"]
    assert (one["version"], one["state"], one["signature"], one["problems"]) == (3, "complete", "matches", [])
    assert one["created"] == "2026-01-01T00:00:00+00:00"
    done = run("fetch", "s3://models/team", "scaled", "--folder", "got", "--trust", str(owner.public))
    assert f"signed by the key {owner.public}" in done.stdout
    assert hash_files(tmp_path / "got/scaled/3") == hash_files(owner.models / "scaled/3")
    assert (tmp_path / "got/scaled/3" / SIGNATURE).exists()


def test_a_list_shows_labels_metrics_signers_and_what_is_not_whole(owner: Owner, store: Path, tmp_path: Path) -> None:
    (store / "scaled/1" / SIGNATURE).unlink()
    (store / "scaled/3" / SAVED_MODEL).unlink()
    (store / "scaled" / PUBLISHING / "abc").mkdir(parents=True)
    (tmp_path / "models.yaml").write_text(
        yaml.safe_dump({"models": {"scaled": {"builder": "a:b", "labels": {"stable": 2}}}})
    )
    done = run_export(tmp_path, "list", "./store", "scaled")
    assert done.returncode == 0, done.stderr
    three, two, one, uploads = done.stdout.splitlines()
    assert three.startswith("scaled  version 3  publishing  2026-01-01T00:00:00+00:00")
    assert "signature not verified, it names the key with the fingerprint" in two
    assert two.endswith("stable")
    assert one.startswith("scaled  version 1  2026-01-01")
    assert one.endswith("bytes  not signed")
    assert uploads == "scaled  1 uploads began and are not finished, or were left"
    trusted = run_export(tmp_path, "list", "./store", "scaled", "--trust", str(owner.public)).stdout
    assert f"signature matches the manifest: the key {owner.public}" in trusted.splitlines()[1]
    assert "NOT TRUSTED  it has no signature" in trusted.splitlines()[2].replace("  it is not", " it is not")


def test_a_list_of_a_hundred_thousand_versions_is_short() -> None:
    """Those with a label are in it, too."""
    system = fsspec.filesystem("memory")
    system.pseudo_dirs += ["/many", "/many/scaled", *(f"/many/scaled/{number}" for number in range(1, 100_001))]
    try:
        with opened("memory://many") as source:
            found = listed(source, "scaled", 3, Known(labels={"stable": 7}), Limits())
    finally:
        system.pseudo_dirs[:] = [""]
    assert [one.version for one in found.versions] == [100_000, 99_999, 99_998, 7]
    assert {one.state for one in found.versions} == {"publishing"}
    assert list(found.lines())[-1] == "scaled  99996 older versions. --newest shows more"


def test_what_is_still_being_published_is_not_fetched(store: Path, tmp_path: Path) -> None:
    (store / "scaled/3" / SAVED_MODEL).unlink()
    assert fetched(store, None, tmp_path / "got").version == 2
    with pytest.raises(FetchError, match="scaled/3 is still being published"):
        fetched(store, 3, tmp_path / "got")
    assert {path.name for path in (tmp_path / "got/scaled").iterdir()} == {"2"}


def test_options_for_a_place_need_one(tmp_path: Path) -> None:
    for words in (["--plain-http"], ["--server", "grpc://127.0.0.1:9"]):
        done = run_export(tmp_path, "list", *words)
        assert done.returncode == 2
        assert "need a URL" in done.stderr
    done = run_export(ROOT, "fetch", "memory://none", f"scaled@sha256:{'0' * 64}", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert "memory://none is no registry" in done.stderr


def test_attack_an_older_signed_version_is_copied_over_a_newer_one(owner: Owner, store: Path, tmp_path: Path) -> None:
    shutil.rmtree(store / "scaled/2")
    shutil.copytree(store / "scaled/1", store / "scaled/2")
    assert versions(store, owner.trust)[2].problems == ("it is version 1 of scaled",)
    with pytest.raises(FetchError, match="is version 1 of scaled, expected version 2 of scaled"):
        fetched(store, 2, tmp_path / "got", owner.trust)
    assert left(tmp_path / "got") == set()


def test_attack_a_signed_version_of_another_model_is_copied_over_one(owner: Owner, store: Path, tmp_path: Path) -> None:
    shutil.rmtree(store / "scaled/2")
    shutil.copytree(store / "other/2", store / "scaled/2")
    assert versions(store, owner.trust)[2].state == "broken"
    with pytest.raises(FetchError, match="is version 2 of other, expected version 2 of scaled"):
        fetched(store, 2, tmp_path / "got", owner.trust)
    assert left(tmp_path / "got") == set()


def test_attack_weights_are_changed_and_the_manifest_is_made_again(owner: Owner, store: Path, tmp_path: Path) -> None:
    """The list sees it by the manifest alone, which isn't the one that was signed."""
    (store / "scaled/2" / SAVED_MODEL).write_bytes(b"evil")
    signature = (store / "scaled/2" / SIGNATURE).read_bytes()
    (store / "scaled/2" / SIGNATURE).unlink()
    with_manifest(store / "scaled/2", number=2)
    (store / "scaled/2" / SIGNATURE).write_bytes(signature)
    found = versions(store, owner.trust)[2]
    assert found.signature == "untrusted"
    assert "NOT TRUSTED" in found.line()
    with pytest.raises(FetchError, match=r"is not what the key .* signed"):
        fetched(store, 2, tmp_path / "got", owner.trust)
    assert left(tmp_path / "got") == set()


def test_attack_weights_of_the_same_size_are_changed(owner: Owner, store: Path, tmp_path: Path) -> None:
    """The list can't see it, and says so: the signature matches the manifest. The fetch compares the bytes."""
    (store / "scaled/2" / SAVED_MODEL).write_bytes(b"gra?h 2")
    assert versions(store, owner.trust)[2].signature == "matches"
    with pytest.raises(FetchError, match=r"'saved_model\.pb': got 7 bytes of SHA-256"):
        fetched(store, 2, tmp_path / "got", owner.trust)
    assert left(tmp_path / "got") == set()


def test_attack_files_are_added_to_a_version(owner: Owner, store: Path, tmp_path: Path) -> None:
    """The list names them, and they are not fetched."""
    (store / "scaled/2/evil.py").write_text("import os")
    found = versions(store, owner.trust)[2]
    assert (found.state, found.problems) == ("broken", ("evil.py is not in the manifest",))
    assert fetched(store, 2, tmp_path / "got", owner.trust).fetched
    assert "evil.py" not in {Path(name).name for name in left(tmp_path / "got")}


@pytest.mark.parametrize("place", [SAVED_MODEL, "variables", "assets.extra", MANIFEST, SIGNATURE])
def test_attack_a_link_out_of_the_store(owner: Owner, store: Path, tmp_path: Path, place: str) -> None:
    """Even if what it leads to is right now what was signed."""
    outside = tmp_path / "outside"
    (store / "scaled/2" / place).rename(outside)
    (store / "scaled/2" / place).symlink_to(outside)
    with pytest.raises(FetchError, match="is a link out of the version"):
        fetched(store, 2, tmp_path / "got", owner.trust)
    assert left(tmp_path / "got") == set()


def test_attack_a_version_is_a_link_out_of_the_store(owner: Owner, store: Path, tmp_path: Path) -> None:
    (store / "scaled/2").rename(tmp_path / "outside")
    (store / "scaled/2").symlink_to(tmp_path / "outside")
    with pytest.raises(FetchError, match="is a link out of the version"):
        fetched(store, 2, tmp_path / "got", owner.trust)
    assert left(tmp_path / "got") == set()


def test_attack_a_pipe_does_not_stop_a_list_or_a_fetch(owner: Owner, store: Path, tmp_path: Path) -> None:
    for name in (SAVED_MODEL, MANIFEST):
        (store / "scaled/2" / name).unlink()
        os.mkfifo(store / "scaled/2" / name)
        with pytest.raises(FetchError, match="is not a file"):
            fetched(store, 2, tmp_path / "got", owner.trust)
    assert versions(store, owner.trust)[2].state == "broken"
    assert left(tmp_path / "got") == set()


def test_attack_hostile_manifests_are_one_line_each(owner: Owner, store: Path) -> None:
    """Others are listed beside them."""
    manifest = store / "scaled/2" / MANIFEST
    good = manifest.read_bytes()
    hostile = [
        b"",
        b"[" * 100_000,
        b'{"model": "\x1b[2J"}',
        b"x" * ((4 << 20) + 1),
        changed(good, lambda it: it.update(created="\x1b[2J" * 100)),
        changed(good, lambda it: it["files"].update({"../evil": {"sha256": "0" * 64, "size": 1}})),
        changed(good, lambda it: it["files"][SAVED_MODEL].update(size=1 << 200)),
    ]
    for data in hostile:
        manifest.write_bytes(data)
        found = versions(store, owner.trust)
        assert [one.state for one in found.values()] == ["complete", "broken", "complete"]
        assert found[2].line().isprintable()
        assert len(found[2].line()) < 1000


def test_attack_a_signature_without_end_is_not_read(owner: Owner, store: Path, tmp_path: Path) -> None:
    with (store / "scaled/2" / SIGNATURE).open("wb") as file:
        file.truncate(1 << 40)
    assert "is larger than" in versions(store, owner.trust)[2].line()
    with pytest.raises(FetchError, match=r"model\.sig is larger than"):
        fetched(store, 2, tmp_path / "got", owner.trust)
    assert left(tmp_path / "got") == set()


def test_attack_a_link_to_its_own_folder_does_not_stop_a_list(owner: Owner, store: Path, tmp_path: Path) -> None:
    for name in ("again", "variables/again"):
        (store / "scaled/2" / name).symlink_to(store / "scaled/2")
    found = versions(store, owner.trust)[2]
    assert found.state == "broken"
    assert len(found.line()) < 1000
    assert fetched(store, 2, tmp_path / "got", owner.trust).fetched
    assert not any("again" in name for name in left(tmp_path / "got"))
