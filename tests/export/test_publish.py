"""Publishing: whole or not at all, to folders and to object stores, the latter with a real S3 server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import s3fs
import tensorflow as tf

from tests.export import zoo
from tests.export.conftest import ROOT, Project, export_to
from tests.exporting import run_export
from tests.object_stores import SECRET, Store, started
from tests.servers import wait_for
from tfserving.clients.verification.proofs import Versions, subjects
from tfserving.export.check import check_files
from tfserving.export.publish import PublishError, publish
from tfserving.export.servable import Servable
from tfserving.foundation.golden import read_golden

# In parts from 100 MB on: https://s3fs.readthedocs.io/en/latest/api.html#s3fs.core.S3FileSystem
MANY = 30 << 20
FILES = 7


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with started(tmp_path_factory.mktemp("weed")) as made:
        yield made


@pytest.fixture
def bucket(store: Store, request: pytest.FixtureRequest) -> str:
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[-50:].strip("-")
    store.system.mkdir(name)
    return str(name)


def heavy() -> Servable:
    """A version that takes a while to send."""
    module = tf.Module()
    module.table = tf.Variable(np.arange(MANY, dtype=np.float32))
    return zoo.servable(module, lambda rows: {"scaled": rows * module.table[1]})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with version 1 of `model`, of 126 MB."""
    folder = tmp_path_factory.mktemp("large")
    export_to(folder / "model", heavy)
    return folder


def start(arguments: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts `tfserving export publish ARGUMENTS`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tfserving", "export", "publish", *arguments],
        env={**os.environ, **(env or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(arguments: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs it to its end, in this process."""
    s3fs.S3FileSystem.clear_instance_cache()
    return run_export(ROOT, "publish", *arguments, env=env)


def run_alone(arguments: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    process = start(arguments, env)
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


class Watcher:
    """Looks at a destination all the time, as a server does, and notes what it found when there was a version."""

    def __init__(self, look: Callable[[], set[str]]) -> None:
        self._look = look
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.seen: set[frozenset[str]] = set()

    def _watch(self) -> None:
        ended = False
        while not ended:
            # What is there at the end is looked at, too.
            ended = self._done.is_set()
            if found := self._look():
                self.seen.add(frozenset(found))

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def relative(folder: Path) -> set[str]:
    """Every file below `folder`, which may vanish meanwhile."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_folder_gets_the_version_whole_at_once(large: Path, tmp_path: Path) -> None:
    target = tmp_path / "served/model/1"
    with Watcher(lambda: relative(target) if target.exists() else set()) as watcher:
        done = run(["model/1", str(tmp_path / "served"), "--folder", str(large)])
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        rf"{tmp_path}/served/model/1: {FILES} of {FILES} files sent, \d+ bytes, in [\d.]+ s\n", done.stdout
    )
    assert watcher.seen == {frozenset(relative(large / "model/1"))}
    check_files(target)
    assert {path.name for path in target.parent.iterdir()} == {"1"}


def test_a_publish_to_a_folder_killed_half_way_leaves_nothing_to_load_and_is_cleaned_up(
    large: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "served/model"
    process = start(["model/1", str(tmp_path / "served"), "--folder", str(large)])
    wait_for(lambda: list(folder.glob(".tmp-*/version/variables/variables.data*")) or process.poll() is not None)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [path.name[:5] for path in folder.iterdir()] == [".tmp-"]
    done = run(["model/1", str(tmp_path / "served"), "--folder", str(large)])
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"1"}
    check_files(folder / "1")


def test_an_object_store_gets_saved_model_pb_last(large: Path, store: Store, bucket: str, tmp_path: Path) -> None:
    def look() -> set[str]:
        names = [name for name in store.files(bucket) if name.startswith("models/model/1/")]
        found = {name.removeprefix("models/model/1/") for name in names}
        return found if "saved_model.pb" in found else set()

    with Watcher(look) as watcher:
        done = run_alone(["model/1", f"s3://{bucket}/models", "--folder", str(large), "--json"], store.env)
    assert done.returncode == 0, done.stderr
    published = json.loads(done.stdout)
    assert (published["url"], published["files"], published["files_sent"]) == (
        f"s3://{bucket}/models/model/1",
        FILES,
        FILES,
    )
    assert watcher.seen <= {frozenset(relative(large / "model/1"))}
    assert SECRET not in done.stderr + done.stdout
    # What a server downloads is what was exported.
    store.system.get(f"{bucket}/models/model/1", str(tmp_path / "copy"), recursive=True)
    check_files(tmp_path / "copy")


def test_a_publish_to_an_object_store_killed_half_way_has_no_version_and_goes_on(
    large: Path, store: Store, bucket: str
) -> None:
    command = ["model/1", f"s3://{bucket}/models", "--folder", str(large)]
    process = start(command, store.env)
    # The large file is sent in parts: it is killed when the first of them is there.
    wait_for(lambda: store.system.list_multipart_uploads(bucket) or process.poll() is not None, what="an upload")
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = store.files(bucket)
    assert left
    assert all(name.startswith("models/model/.publishing/") for name in left)
    parts = store.system.list_multipart_uploads(bucket)
    done = run(command, store.env)
    assert done.returncode == 0, done.stderr
    assert f"{FILES} of {FILES} files sent" in done.stdout
    assert store.files(bucket) == left | {f"models/model/1/{name}" for name in relative(large / "model/1")}
    # The other publisher might only be slow.
    assert store.system.list_multipart_uploads(bucket) == parts


def test_ctrl_c_ends_a_publish_quietly_and_it_goes_on_later(large: Path, store: Store, bucket: str) -> None:
    command = ["model/1", f"s3://{bucket}", "--folder", str(large)]
    process = start(command, store.env)
    wait_for(lambda: store.system.list_multipart_uploads(bucket) or process.poll() is not None, what="an upload")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not store.files(bucket)
    assert run(command, store.env).returncode == 0
    assert "model/1/saved_model.pb" in store.files(bucket)


def test_what_is_there_already_is_left_and_another_is_never_overwritten(
    version: Path, store: Store, bucket: str
) -> None:
    first = publish_s3(version, bucket, store)
    assert first.files_sent == first.files
    again = publish_s3(version, bucket, store)
    assert (again.files_sent, str(again)) == (
        0,
        f"s3://{bucket}/scale/1 exists already, and all 7 files are the same",
    )
    store.system.pipe_file(f"{bucket}/scale/1/assets.extra/golden.tfrecord", b"other")
    with pytest.raises(PublishError, match=r"differs from its manifest(.|\n)*golden\.tfrecord: got 5 bytes"):
        publish_s3(version, bucket, store)
    assert store.system.cat(f"{bucket}/scale/1/assets.extra/golden.tfrecord") == b"other"


def test_the_proof_of_what_is_published_can_be_fetched_for_verification(
    version: Path, store: Store, bucket: str
) -> None:
    publish_s3(version, bucket, store)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.env.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        for url, wanted in ((f"s3://{bucket}", None), (f"s3://{bucket}/scale/1", frozenset({1}))):
            with subjects([url]) as found:
                versions = found["scale"]
                assert isinstance(versions, Versions)
                assert versions.wanted == wanted
                fetched = read_golden(versions.on_disk()[1])
                assert len(fetched.requests) == len(read_golden(version).requests)
                assert not (versions.on_disk()[1] / "variables").exists(), "the weights stay where they are"


def publish_s3(version: Path, bucket: str, store: Store) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.env.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        return publish(version, "scale", 1, f"s3://{bucket}")


def test_a_folder_that_has_another_version_of_that_number_keeps_it(version: Path, tmp_path: Path) -> None:
    publish(version, "scale", 1, str(tmp_path))
    assert publish(version, "scale", 1, str(tmp_path)).files_sent == 0
    (tmp_path / "scale/1/notes.txt").write_text("mine")
    with pytest.raises(PublishError, match="A version is never overwritten: publish a new number"):
        publish(version, "scale", 1, str(tmp_path))
    assert (tmp_path / "scale/1/notes.txt").read_text() == "mine"


def test_a_store_of_fsspec_in_memory_will_do(version: Path) -> None:
    published = publish(version, "scale", 1, "memory://anywhere/models")
    assert published.files_sent == FILES
    system = fsspec.filesystem("memory")
    found = {name.removeprefix("/anywhere/models/scale/1/") for name in system.find("/anywhere/models")}
    assert found == relative(version)


def test_what_is_read_back_otherwise_is_an_error_and_no_version(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A store that loses bits.
    system = fsspec.filesystem("memory")
    put = type(system).put_file

    def lossy(self: Any, local: str, remote: str, **more: Any) -> None:
        put(self, local, remote, **more)
        if remote.endswith("golden.tfrecord"):
            self.pipe_file(remote, self.cat_file(remote)[:-1] + b"?")

    monkeypatch.setattr(type(system), "put_file", lossy)
    with pytest.raises(PublishError, match=r"golden\.tfrecord: read back SHA-256 .*, expected"):
        publish(version, "scale", 1, "memory://lossy")
    assert not system.find("/lossy")


def test_a_store_without_conditional_writes_is_refused(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("memory")
    pipe = type(system).pipe_file
    monkeypatch.setattr(type(system), "pipe_file", lambda self, path, data, **_: pipe(self, path, data))
    with pytest.raises(PublishError, match="the store overwrites an object in spite of `If-None-Match"):
        publish(version, "scale", 1, "memory://old")
    assert not system.find("/old")


def test_a_damaged_version_is_not_published(copied: Path, tmp_path: Path) -> None:
    (copied / "fingerprint.pb").write_bytes(b"")
    with pytest.raises(PublishError, match=r"fingerprint\.pb: got 0 bytes"):
        publish(copied, "scale", 1, str(tmp_path / "served"))
    assert not (tmp_path / "served").exists()


def test_the_newest_version_can_be_meant(exported: Project, tmp_path: Path) -> None:
    done = exported.run("publish", "scale/latest", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scale" / max(exported.names("scale"))).is_dir()


@pytest.mark.parametrize(
    ("arguments", "returncode", "problem"),
    [
        (["scale/9", "{tmp}"], 2, "model 'scale' has no version 9 in models/scale; it has 1"),
        (["scael/1", "{tmp}"], 2, "Did you mean 'scale'?"),
        (["scale/1", "abfs://bucket@account.dfs.core.windows.net"], 2, "abfs"),
        (["scale/1", "http://127.0.0.1:9/models"], 2, "versions are published to a folder, s3://, gs:// and abfs://"),
        (["scale/1", "nonsense://bucket"], 2, "nonsense"),
        (["scale/1", "/proc/nothing"], 2, "/proc/nothing"),
    ],
    ids=["version", "model", "package", "conditional writes", "protocol", "folder"],
)
def test_what_cannot_be_published_is_told_in_a_line(
    exported: Project, tmp_path: Path, arguments: list[str], returncode: int, problem: str
) -> None:
    done = exported.run("publish", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == returncode, done.stderr
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("bucket", "env", "problem"),
    [
        ("no-such-bucket", {}, "the bucket 'no-such-bucket' does not exist"),
        ("ready", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3://ready/models/scale/1 can't be written: "),
        ("ready", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://ready/models/scale/1 can't be written: "),
    ],
    ids=["bucket", "secret", "unreachable"],
)
def test_a_store_that_takes_nothing_is_told_in_a_line_and_no_secret(
    version: Path, store: Store, bucket: str, env: dict[str, str], problem: str
) -> None:
    arguments = ["scale/1", f"s3://{bucket}/models", "--folder", str(version.parents[1])]
    done = run_alone(arguments, {**store.env, **env})
    assert done.returncode == 1, done.stderr
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
