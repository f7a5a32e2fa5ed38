"""Versions in a real registry: published, listed and fetched, and read by other tools."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import oras.client
import pytest

from tests.export.conftest import ROOT
from tests.export.registries import REPOSITORY, Attacker, fetched, left, push, started
from tests.exporting import run_export
from tests.servers import wait_for
from tests.signed import make_key, sign_with, tiny_version, with_manifest
from tfserving.export.oci.errors import RegistryError
from tfserving.export.oci.layout import Image, descriptor_of, digest_of, make_manifest, read_image
from tfserving.export.oci.place import Place, read_place
from tfserving.export.oci.publish import Pushed
from tfserving.export.outgoing import PublishError
from tfserving.export.published.fetch import FetchError
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL
from tfserving.foundation.version_files import judge


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def place(shared: str, request: pytest.FixtureRequest) -> Place:
    """A place of the test's own in the registry."""
    return Place(shared, re.sub("[^a-z0-9]+", "-", request.node.name)[:60].strip("-"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def image_of(pushed: Pushed) -> str:
    """The digest of its image."""
    return pushed.reference.rpartition("@")[2]


def export(*words: str) -> subprocess.CompletedProcess[str]:
    return run_export(ROOT, *words)


def test_a_version_is_published_listed_and_fetched_by_tag_and_by_digest(place: Place, tmp_path: Path) -> None:
    key, public = make_key(tmp_path, "k")
    version = sign_with(tiny_version(tmp_path / "models"), key)
    done = export("publish", "scaled/1", str(place), "--folder", str(tmp_path / "models"), "--json")
    assert done.returncode == 0, done.stderr
    published = json.loads(done.stdout)
    assert published["url"] == f"{place}/scaled:1"
    image = published["reference"].removeprefix(f"{place.host}/{place.path}/scaled@")
    assert published["digest"] == judge(version).digest()
    listed = export("list", str(place), "scaled", "--trust", str(public), "--json")
    assert listed.returncode == 0, listed.stderr
    (one,) = json.loads(listed.stdout)["models"][0]["versions"]
    assert (one["version"], one["state"], one["signature"]) == (1, "complete", "matches")
    assert one["reference"] == published["reference"]
    assert one["size_bytes"] == sum(map(len, contents(version).values())) - len(
        contents(version)["assets.extra/model.sig"]
    )
    for number, wanted in enumerate(["scaled/1", "scaled", f"scaled@{image}"]):
        into = tmp_path / f"fetched{number}"
        got = export("fetch", str(place), wanted, "--folder", str(into), "--trust", str(public))
        assert got.returncode == 0, got.stderr
        assert contents(into / "scaled/1") == contents(version)
        assert left(into) == {"scaled", "scaled/1"} | {f"scaled/1/{name}" for name in left(version)}


def test_the_same_version_is_published_once_and_another_never_replaces_it(place: Place, tmp_path: Path) -> None:
    version = tiny_version(tmp_path / "models")
    first = push(version, place)
    again = push(version, place)
    assert (again.sent_bytes, again.created, again.reference) == (0, False, first.reference)
    other = tiny_version(tmp_path / "other", graph=b"other")
    with pytest.raises(PublishError, match=rf"exists already, as {image_of(first)}, and differs"):
        push(other, place)
    assert push(version, place).reference == first.reference


def test_the_image_is_the_same_on_every_machine_and_at_every_time(place: Place, tmp_path: Path) -> None:
    version = tiny_version(tmp_path / "models")
    copy = shutil.copytree(version, tmp_path / "copied/scaled/1")
    (copy / SAVED_MODEL).touch()
    copy.chmod(0o700)
    assert image_of(push(version, place)) == image_of(push(copy, Place(place.host, f"{place.path}/other")))


def test_another_compression_of_the_same_files_is_the_same_version(place: Place, tmp_path: Path) -> None:
    version = tiny_version(tmp_path / "models")
    first = push(version, place)
    mine, other = (Attacker(place.host, f"{place.path}{folder}/scaled") for folder in ("", "/other"))
    image = read_image(mine.image("1"), "")
    layer = gzip.compress(gzip.decompress(mine.blob(image.layer)), 9)
    config = mine.blob(image.config)
    other.put("1", make_manifest(Image(image.config, descriptor_of(layer)), {}), config, layer)
    again = push(version, Place(place.host, f"{place.path}/other"))
    assert again.sent_bytes == 0
    assert image_of(again) == digest_of(other.image("1")) != image_of(first)


def test_one_of_two_publishers_at_the_same_time_reports_that_the_tag_is_the_other_ones(
    place: Place, tmp_path: Path
) -> None:
    """A registry has no conditional write of a tag: whoever finds another's digest under the tag says so."""
    mine, other = tiny_version(tmp_path / "a"), tiny_version(tmp_path / "b", graph=b"other")

    def interrupt(step: str) -> None:
        if step == "reading the tag back":
            # The other one's tag is written between the write and the reading back.
            push(other, Place(place.host, f"{place.path}/aside"))
            aside = Attacker(place.host, f"{place.path}/aside/scaled")
            image = read_image(aside.image("1"), "")
            blobs = [aside.blob(blob) for blob in (image.config, image.layer)]
            Attacker(place.host, f"{place.path}/scaled").put("1", aside.image("1"), *blobs)

    with pytest.raises(PublishError, match="written by another publisher at the same time"):
        push(mine, place, now=interrupt)
    source = f"oci://{place.host}/{place.path}"
    got = export("fetch", source, "scaled/1", "--folder", str(tmp_path / "got"))
    assert got.returncode == 0, got.stderr
    assert contents(tmp_path / "got/scaled/1") == contents(other)


def test_of_many_publishers_at_once_the_tag_has_one_and_nothing_is_mixed(place: Place, tmp_path: Path) -> None:
    versions = [tiny_version(tmp_path / str(number), graph=b"graph %d" % number) for number in range(8)]
    results: dict[int, Pushed | PublishError] = {}

    def publish(number: int) -> None:
        try:
            results[number] = push(versions[number], place)
        except PublishError as error:
            results[number] = error

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(len(versions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = export("fetch", str(place), "scaled/1", "--folder", str(tmp_path / "got"), "--json")
    assert done.returncode == 0, done.stderr
    digest = json.loads(done.stdout)["reference"].rpartition("@")[2]
    judge(tmp_path / "got/scaled/1")
    won = [number for number, result in results.items() if isinstance(result, Pushed) and image_of(result) == digest]
    (winner,) = won
    assert contents(tmp_path / "got/scaled/1") == contents(versions[winner])


def test_oras_reads_what_is_published(place: Place, tmp_path: Path) -> None:
    """oras-py unpacks a layer into the folder above what its title names, which is the folder itself."""
    version = tiny_version(tmp_path / "models")
    pushed = push(version, place)
    client = oras.client.OrasClient(insecure=True)
    client.pull(f"{place.host}/{place.path}/scaled:1", outdir=str(tmp_path / "pulled/1"))
    assert contents(tmp_path / "pulled") == contents(version)
    assert client.get_manifest(pushed.reference)["annotations"] == {
        "org.opencontainers.image.title": "scaled",
        "org.opencontainers.image.version": "1",
        "org.opencontainers.image.created": "2026-01-01T00:00:00+00:00",
        "dev.tfserving.manifest.digest": f"sha256:{judge(version).digest()}",
    }


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("containerd") is None, reason="containerd runs as root")
def test_containerd_unpacks_it_as_an_image(place: Place, tmp_path: Path) -> None:
    version = tiny_version(tmp_path / "models")
    pushed = push(version, place)
    # A socket's path is short.
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "config.toml").write_text(
            f'version = 2\nroot = "{made}/root"\nstate = "{made}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{made}/socket"\n'
        )
        with (folder / "log").open("w") as log:
            daemon = subprocess.Popen(["containerd", "-c", f"{made}/config.toml"], stdout=log, stderr=log)
        try:
            wait_for((folder / "socket").exists, what="containerd")
            pull = ["ctr", "-a", f"{made}/socket", "image", "pull", "--plain-http", "--snapshotter", "native"]
            subprocess.run([*pull, pushed.reference], check=True, capture_output=True)
            (unpacked,) = (folder / "root/io.containerd.snapshotter.v1.native/snapshots").iterdir()
            assert contents(unpacked) == contents(version)
        finally:
            daemon.kill()
            daemon.wait(60)


def test_a_fetch_leaves_what_is_the_same_and_refuses_what_differs(shared: str, tmp_path: Path) -> None:
    place = Place(shared, REPOSITORY)
    version = tiny_version(tmp_path / "models", number=7)
    push(version, place)
    assert fetched(shared, 7, tmp_path / "got").fetched
    again = fetched(shared, 7, tmp_path / "got")
    assert not again.fetched
    assert "exists already, and is the same" in str(again)
    shutil.rmtree(tmp_path / "got/scaled/7")
    tiny_version(tmp_path / "got", number=7, graph=b"other")
    before = contents(tmp_path / "got")
    with pytest.raises(FetchError, match=r"differs from .*\. A version is never overwritten"):
        fetched(shared, 7, tmp_path / "got")
    assert contents(tmp_path / "got") == before


def test_a_fetch_stops_at_the_limits_before_any_file_is_written(place: Place, tmp_path: Path) -> None:
    push(tiny_version(tmp_path / "models"), place)
    got = str(tmp_path / "got")
    for option, value in (("--max-bytes", "10"), ("--max-files", "1")):
        done = export("fetch", str(place), "scaled", "--folder", got, option, value)
        assert done.returncode == 1
        assert f"{option} is {value}" in done.stderr
    assert left(tmp_path / "got") == set()


def test_a_fetch_needs_room_on_the_disk(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(tiny_version(tmp_path / "models"), place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    done = export("fetch", str(place), "scaled", "--folder", str(tmp_path / "got"))
    assert done.returncode == 1
    assert "has 10 bytes free" in done.stderr
    assert left(tmp_path / "got") == set()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("oci://", "'' is no host"),
        ("oci://host/Upper", "'Upper' is no repository"),
        ("oci://host/a//b", "'a//b' is no repository"),
        ("oci://host/a/../b", "is no repository"),
        ("oci://host:port/a", "'host:port' is no host"),
        ("oci://user:secret@host/a", "credentials don't belong into a URL"),
    ],
)
def test_a_place_that_is_none_is_an_error_without_secrets(url: str, reason: str) -> None:
    with pytest.raises(RegistryError) as raised:
        read_place(url)
    assert reason in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_model_whose_name_no_repository_can_have_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    tiny_version(tmp_path / "models", model="My_Model")
    done = export("publish", "My_Model/1", "oci://127.0.0.1:9/models", "--folder", str(tmp_path / "models"))
    assert done.returncode == 2
    assert "no repository of the name 'My_Model'" in done.stderr
    assert "'my-model' could be published there" in done.stderr


def test_a_version_that_is_signed_again_does_not_replace_the_tag(place: Place, tmp_path: Path) -> None:
    version = tiny_version(tmp_path / "models")
    first = push(version, place)
    sign_with(version, make_key(tmp_path, "k")[0])
    with pytest.raises(PublishError, match=f"as {image_of(first)}, with the same files and another signature"):
        push(version, place)


def test_with_trust_only_a_signed_version_is_published(place: Place, tmp_path: Path) -> None:
    version = tiny_version(tmp_path / "models")
    key, public = make_key(tmp_path, "k")
    (tmp_path / "models.yaml").write_text(f"models: {{scaled: {{builder: a:b}}}}\ntrust: {{keys: [{public}]}}\n")
    done = run_export(tmp_path, "publish", "scaled/1", str(place))
    assert done.returncode == 1
    assert "is not signed" in done.stderr
    sign_with(version, key)
    done = run_export(tmp_path, "publish", "scaled/1", str(place), "--json")
    assert done.returncode == 0, done.stderr
    assert str(public) in json.loads(done.stdout)["signer"]


def test_no_registry_and_no_version_are_errors_of_one_line(place: Place, tmp_path: Path) -> None:
    got = ["--folder", str(tmp_path / "got")]
    cases: list[tuple[list[str], str]] = [
        (["oci://127.0.0.1:9/models", "scaled"], "no server can be reached at http://127.0.0.1:9"),
        ([str(place), "scaled/9"], "has no 9"),
        ([str(place), "scaled"], "has no complete version of scaled"),
        ([str(place), f"scaled@sha256:{'0' * 64}"], f"has no sha256:{'0' * 64}"),
    ]
    for words, reason in cases:
        done = export("fetch", *words, *got)
        assert done.returncode == 1
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
    for wanted in ("scaled@sha256:short", "scaled/x", "../scaled"):
        assert export("fetch", str(place), wanted, *got).returncode == 2
    assert left(tmp_path / "got") == set()


def test_a_command_that_lists_and_fetches_imports_no_tensorflow(place: Place, tmp_path: Path) -> None:
    push(tiny_version(tmp_path / "models"), place)
    code = (
        "import sys; from tfserving.cli import tfserving\n"
        f"words = ['export', 'fetch', '{place}', 'scaled', '--folder', '{tmp_path / 'got'}']\n"
        "try: tfserving(words)\nfinally: print(sorted({'tensorflow', 'keras'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.endswith("[]\n")
    assert (tmp_path / "got/scaled/1" / MANIFEST).exists()


def test_a_file_that_changes_while_it_is_packed_is_not_published(place: Place, tmp_path: Path) -> None:
    version = tiny_version(tmp_path / "models")

    def interrupt(step: str) -> None:
        if step.startswith("looking for"):
            (version / SAVED_MODEL).write_bytes(b"grap")

    with pytest.raises(PublishError, match="was changed meanwhile"):
        push(version, place, now=interrupt)
    with_manifest(version)
    assert push(version, place).sent_bytes
