"""Versions come from an object store whole or not at all: from a real S3 server, or a folder where that will do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.export import test_publish as publishing
from tests.export.test_publish import store  # noqa: F401 - a fixture
from tests.servers import wait_for
from tfserving.foundation.golden import MANIFEST, SAVED_MODEL
from tfserving.k8s.sync import Store, SyncError, Wanted, main, sync

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    SAVED_MODEL: b"graph",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"data",
}


def version(folder: Path, number: int = 1, model: str = "digits") -> Path:
    """A published version: files and their manifest."""
    target = folder / model / str(number)
    for name, data in FILES.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data + str(number).encode())
    listed(target, {name: (target / name).read_bytes() for name in FILES})
    return target


def listed(target: Path, files: dict[str, bytes]) -> None:
    entries = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    (target / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
    (target / MANIFEST).write_text(json.dumps({"digest": "d", "files": entries}))


def config(path: Path, *versions: int, model: str = "digits") -> Path:
    """A models.config that names these versions."""
    named = " ".join(f"versions: {version}" for version in versions)
    path.write_text(
        f'model_config_list {{ config {{ name: "{model}" base_path: "/models/{model}" model_platform: "tensorflow" '
        f"model_version_policy {{ specific {{ {named} }} }} }} }}"
    )
    return path


class Places:
    """A store that is a folder, and where a server looks."""

    def __init__(self, folder: Path) -> None:
        self.remote, self.local = folder / "remote", folder / "local"
        self.remote.mkdir()
        self.local.mkdir()
        self.said: list[str] = []

    def sync(self, wanted: Wanted | None = None) -> list[str]:
        return sync(Store(f"file://{self.remote}"), self.local, wanted or Wanted(), self.said.append)

    def there(self) -> set[str]:
        """All that the server's folders have, hidden or not."""
        return {f"{path.parent.name}/{path.name}" for path in self.local.glob("*/*")}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def test_a_version_is_brought_whole(places: Places) -> None:
    published = version(places.remote)
    assert places.sync() == []
    for path in (path for path in published.rglob("*") if path.is_file()):
        assert (places.local / "digits/1" / path.relative_to(published)).read_bytes() == path.read_bytes()
    assert places.there() == {"digits/1"}
    # The server is somebody else.
    assert (places.local / "digits/1").stat().st_mode & 0o555 == 0o555
    assert len(places.said) == 1
    assert places.sync() == []
    assert len(places.said) == 1


def spoilt_data(target: Path) -> None:
    (target / "variables/variables.index").write_bytes(b"other")


def missing_data(target: Path) -> None:
    (target / "variables/variables.index").unlink()


def no_manifest(target: Path) -> None:
    (target / MANIFEST).unlink()


def half_a_manifest(target: Path) -> None:
    (target / MANIFEST).write_text('{"digest": "d", "fil')


def a_way_out(target: Path) -> None:
    listed(target, {"../../../escaped": b"x", SAVED_MODEL: b"graph1"})
    (target / "../../../escaped").write_bytes(b"x")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoilt_data, "digits/1 is not whole: "),
        (missing_data, "digits/1 is not whole: "),
        (no_manifest, "digits/1 is not whole: "),
        (half_a_manifest, "is no manifest: "),
        (a_way_out, "lists '../../../escaped', which is not in the version"),
    ],
)
def test_what_is_not_whole_never_appears_and_does_not_keep_others_away(places: Places, spoil: Any, reason: str) -> None:
    spoil(version(places.remote))
    version(places.remote, 2)
    (problem,) = places.sync()
    assert reason in problem
    assert str(places.local) not in problem
    assert places.there() == {"digits/2"}
    assert not (places.local.parent / "escaped").is_file() or spoil is a_way_out
    assert not (places.local / "escaped").exists()
    # It is brought once it is whole.
    shutil.rmtree(places.remote / "digits/1")
    version(places.remote)
    assert places.sync() == []
    assert places.there() == {"digits/1", "digits/2"}


def test_a_version_that_is_still_being_published_is_left_alone(places: Places) -> None:
    (version(places.remote) / SAVED_MODEL).unlink()
    assert places.sync() == []
    assert places.there() == set()


def test_what_a_killed_process_left_is_removed(places: Places) -> None:
    (places.local / "digits/.tmp-abc/variables").mkdir(parents=True)
    version(places.remote)
    places.sync()
    assert places.there() == {"digits/1"}


def test_the_newest_and_those_that_are_served_are_kept(places: Places, tmp_path: Path) -> None:
    for number in (1, 2, 3, 10):
        version(places.remote, number)
    version(places.remote, model="other")
    wanted = Wanted(newest=2, config=config(tmp_path / "models.config", 1))
    assert places.sync(wanted) == []
    assert places.there() == {"digits/1", "digits/3", "digits/10"}
    config(tmp_path / "models.config", 2, 10)
    assert places.sync(wanted) == []
    assert places.there() == {"digits/2", "digits/3", "digits/10"}


def test_a_version_that_is_served_and_not_there_any_more_stays(places: Places, tmp_path: Path) -> None:
    version(places.remote)
    wanted = Wanted(config=config(tmp_path / "models.config", 1))
    places.sync(wanted)
    shutil.rmtree(places.remote / "digits")
    assert places.sync(wanted) == []
    assert places.there() == {"digits/1"}


def test_nothing_changes_when_the_store_or_the_configuration_cannot_be_read(places: Places, tmp_path: Path) -> None:
    version(places.remote)
    places.sync()
    (tmp_path / "models.config").write_text("model_config_list {")
    with pytest.raises(SyncError, match=r"models\.config can't be read"):
        places.sync(Wanted(config=tmp_path / "models.config"))
    with pytest.raises(SyncError, match="nonsense"):
        Store("nonsense://there")
    assert places.there() == {"digits/1"}


def test_once_is_an_error_when_what_is_served_is_missing(places: Places, tmp_path: Path) -> None:
    spoilt_data(version(places.remote))
    version(places.remote, 2)
    words = [f"file://{places.remote}", str(places.local), "--once"]
    assert main(words) == 1
    assert main([*words, f"--config={config(tmp_path / 'models.config', 1)}"]) == 1
    # A newer version that is broken is no reason not to start.
    assert main([*words, f"--config={config(tmp_path / 'models.config', 2)}"]) == 0
    assert main([*words, f"--config={config(tmp_path / 'models.config', 7)}"]) == 1


def test_a_process_brings_what_is_published_to_s3_later(
    store: publishing.Store,  # noqa: F811 - the fixture
    places: Places,
    tmp_path: Path,
) -> None:
    version(places.remote)
    store.system.mkdir("synced")
    store.system.put(f"{places.remote}/digits/", "synced/published/digits/", recursive=True)
    command = [sys.executable, "-m", "tfserving.k8s.sync", "s3://synced/published", str(places.local), "--interval=0.2"]
    command.append(f"--alive={tmp_path / 'alive'}")
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **store.env}, stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: places.there() == {"digits/1"}, what="the first version")
            # As `publish` does it: saved_model.pb last.
            later = version(tmp_path / "later", 2)
            names = sorted(FILES | {MANIFEST: b""}, key=lambda name: name == SAVED_MODEL)
            for name in names:
                assert places.there() == {"digits/1"}
                store.system.put_file(str(later / name), f"synced/published/digits/2/{name}")
            wait_for(lambda: "digits/2" in places.there(), what="the second version")
            before = (tmp_path / "alive").stat().st_mtime
            wait_for(lambda: (tmp_path / "alive").stat().st_mtime > before, what="a later look")
            assert time.time() - before < 60
        finally:
            process.terminate()
    assert not list(places.local.glob("*/.tmp-*")) or process.returncode


def test_tensorflow_is_not_needed() -> None:
    heavy = {"tensorflow", "pydantic", "docker", "grpc", "click"}
    code = f"import sys, tfserving.k8s.sync; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
