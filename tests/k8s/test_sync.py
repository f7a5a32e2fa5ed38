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

from tests import object_stores
from tests.export.test_publish import store  # noqa: F401 - a fixture
from tests.servers import wait_for
from tfserving.foundation.golden import MANIFEST, SAVED_MODEL
from tfserving.foundation.store import Limits, Store, StoreError
from tfserving.k8s.sync import MOST_BROKEN, Wanted, main, sync

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
    (target / MANIFEST).write_text(sealed({"files": entries}))


def sealed(manifest: dict[str, Any]) -> str:
    """A manifest with its digest."""
    empty = json.dumps({**manifest, "digest": ""})
    return empty.removesuffix('"}') + hashlib.sha256(empty.encode()).hexdigest() + '"}'


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
        (spoilt_data, "digits/1 is incomplete: "),
        (missing_data, "digits/1 is incomplete: "),
        (no_manifest, "digits/1 is incomplete: "),
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


HASH = hashlib.sha256(b"graph7").hexdigest()
GRAPH = {SAVED_MODEL: {"size": 6, "sha256": HASH}}
# By what is wrong with it, a manifest and the reason that is printed.
MANIFESTS: dict[str, tuple[bytes | str, str]] = {
    "files is a list": ('{"files": ["saved_model.pb"], "digest": ""}', "files is a list, expected an object"),
    "files is null": ('{"files": null, "digest": ""}', "files is None, expected an object"),
    "an entry is a string": ('{"files": {"a": "b"}, "digest": ""}', "files['a'] is 'b', expected an object"),
    "an entry has no sha256": ('{"files": {"a": {"size": 1}}, "digest": ""}', "the sha256 of 'a' is None"),
    "a size is negative": (sealed({"files": {"a": {"size": -1, "sha256": HASH}}}), "the size of 'a' is -1"),
    "a size is true": (sealed({"files": {"a": {"size": True, "sha256": HASH}}}), "the size of 'a' is True"),
    "a size is too large": (sealed({"files": {**GRAPH, "a": {"size": 1 << 62, "sha256": HASH}}}), "--max-bytes is"),
    "a name has a NUL": (sealed({"files": {**GRAPH, "a\0b": GRAPH[SAVED_MODEL]}}), "which is no path of a file"),
    "a name is empty": (sealed({"files": {**GRAPH, "": GRAPH[SAVED_MODEL]}}), "lists '', which is no path of a file"),
    "a name is absolute": (sealed({"files": {**GRAPH, "/etc/x": GRAPH[SAVED_MODEL]}}), "'/etc/x', which is not in"),
    "a name is a surrogate": (sealed({"files": {**GRAPH, "\ud800": GRAPH[SAVED_MODEL]}}), "which is not Unicode"),
    "a name is nested": (sealed({"files": {**GRAPH, "a/" * 2000 + "b": GRAPH[SAVED_MODEL]}}), "or 32 folders"),
    "a file is a folder": (sealed({"files": {**GRAPH, f"{SAVED_MODEL}/x": GRAPH[SAVED_MODEL]}}), "and as a folder"),
    "a file is there twice": (f'{{"files": {{"a": {{}}, "a": {{"sha256": "{HASH}"}}}}}}', "it has 'a' twice"),
    "nothing is listed": (sealed({"files": {}}), "must list saved_model.pb"),
    "it lists itself": (sealed({"files": {**GRAPH, MANIFEST: GRAPH[SAVED_MODEL]}}), "must not list itself"),
    "too many files": (
        sealed({"files": {**GRAPH, **{f"f{n}": GRAPH[SAVED_MODEL] for n in range(20)}}}),
        "--max-files is",
    ),
    "the digest is another": (json.dumps({"files": GRAPH, "digest": HASH}), "its digest does not match its contents"),
    "the digest is none": (json.dumps({"files": GRAPH, "digest": "forged"}), "its digest is 'forged'"),
    "deep lists": ("[" * 200_000, "it is nested too deep"),
    "deep objects": ('{"a":' * 200_000, "it is nested too deep"),
    "a number of 5,000 digits": ('{"files": {}, "x": ' + "9" * 5000 + "}", "a number of thousands of digits"),
    "NaN": ('{"files": {}, "x": NaN}', "it has NaN, which is no JSON"),
    "not UTF-8": (b'{"files": {}, "x": "\xff"}', "it is not UTF-8 at byte 20"),
    "UTF-16": ('{"files": {}}'.encode("utf-16"), "it is not UTF-8 at byte 0"),
    "a byte order mark": ('{"files": {}}'.encode("utf-8-sig"), "BOM"),
    "too large": (b" " * (5 << 20), "larger than 4194304 bytes"),
    "a string": ('"files"', "got no JSON object"),
}


@pytest.mark.parametrize("fault", MANIFESTS)
def test_a_manifest_that_is_none_concerns_its_version_only(places: Places, fault: str) -> None:
    """It is reported in one line; other versions, those of the same model too, are there."""
    manifest, reason = MANIFESTS[fault]
    version(places.remote, 1)
    version(places.remote, 2, model="other")
    evil = version(places.remote, 7)
    (evil / SAVED_MODEL).write_bytes(b"graph7")
    (evil / MANIFEST).write_bytes(manifest.encode() if isinstance(manifest, str) else manifest)
    (problem,) = places.sync(Wanted(limits=Limits(files=10)))
    assert f"{places.remote}/digits/7" in problem
    assert reason in problem
    assert len(problem.splitlines()) == 1
    assert places.there() == {"digits/1", "other/2"}
    config_path = config(places.local / "models.config", 1)
    assert main([f"file://{places.remote}", str(places.local), "--once", f"--config={config_path}"]) == 0


def a_file_of_50_mb(target: Path) -> None:
    with (target / SAVED_MODEL).open("wb") as file:
        file.truncate(50_000_000)


def a_pipe(target: Path) -> None:
    (target / SAVED_MODEL).unlink()
    os.mkfifo(target / SAVED_MODEL)


def a_device(target: Path) -> None:
    (target / SAVED_MODEL).unlink()
    (target / SAVED_MODEL).symlink_to("/dev/zero")


def a_link_out(target: Path) -> None:
    (target.parent / "elsewhere").write_bytes((target / SAVED_MODEL).read_bytes())
    (target / SAVED_MODEL).unlink()
    (target / SAVED_MODEL).symlink_to("../elsewhere")


def a_folder(target: Path) -> None:
    (target / "variables/variables.index").unlink()
    (target / "variables/variables.index").mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (a_file_of_50_mb, "'saved_model.pb': got 50000000 bytes, expected 6"),
        (a_pipe, "'saved_model.pb' is not a file"),
        (a_device, "'saved_model.pb' is not a file"),
        (a_link_out, "'saved_model.pb' is a link out of the version"),
        (a_folder, "'variables/variables.index' is not a file"),
    ],
)
def test_no_more_is_read_than_the_manifest_says(places: Places, spoil: Any, reason: str) -> None:
    spoil(version(places.remote, 7))
    version(places.remote, 2)
    (problem,) = places.sync()
    assert reason in problem
    assert places.there() == {"digits/2"}


def test_a_file_that_grows_while_it_is_read_is_refused(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that announces the right size sends more."""
    version(places.remote, 7)
    target = Store(f"file://{places.remote}")
    system = target._system
    before = system.info
    monkeypatch.setattr(system, "info", lambda path, **more: {**before(path, **more), "size": 6})
    with (places.remote / "digits/7" / SAVED_MODEL).open("ab") as file:
        file.truncate(5_000_000)
    (problem,) = sync(target, places.local, Wanted(), places.said.append)
    assert "'saved_model.pb' is larger than the 6 bytes of the manifest" in problem
    assert places.there() == set()


def test_only_versions_that_a_server_has_push_others_out(places: Places) -> None:
    for name in ("99999999999999999999", "9223372036854775808", "0", "007", "-1", "1" * 200):
        shutil.copytree(version(places.remote, 1), places.remote / "digits" / name)
    version(places.remote, 3)
    version(places.remote, 7)
    assert places.sync() == []
    assert places.there() == {"digits/3", "digits/7"}
    # Neither do those that aren't whole, whatever their number.
    for number in range(100, 150):
        spoilt_data(version(places.remote, number))
    problems = places.sync()
    assert len(problems) == MOST_BROKEN
    assert places.there() == {"digits/3", "digits/7"}


def test_what_does_not_fit_is_not_brought(places: Places) -> None:
    version(places.remote, 1)
    assert places.sync(Wanted(newest=1)) == []
    here = sum(path.stat().st_size for path in places.local.rglob("*") if path.is_file())
    version(places.remote, 2)
    (problem,) = places.sync(Wanted(newest=1, limits=Limits(size=2 * here - 1)))
    assert (
        f"digits/2 does not fit: it is {here} bytes, {places.local} contains {here} bytes, and --max-bytes is"
        in problem
    )
    assert places.there() == {"digits/1"}
    assert places.sync(Wanted(newest=1, limits=Limits(size=2 * here))) == []
    assert places.there() == {"digits/2"}


def test_what_can_not_be_written_concerns_its_model_only(places: Places) -> None:
    version(places.remote, 1)
    version(places.remote, 1, model="other")
    (places.local / "digits").write_text("in the way")
    assert places.sync() == [f"cannot write {places.local}/digits: File exists"]
    assert places.there() == {"other/1"}


def test_a_disk_that_is_full_for_one_version_has_room_for_others(places: Places) -> None:
    for number in (1, 7):
        version(places.remote, number)
    large = {SAVED_MODEL: b"x" * 100_000, "variables/variables.index": b"index7"}
    (places.remote / "digits/7" / SAVED_MODEL).write_bytes(large[SAVED_MODEL])
    listed(places.remote / "digits/7", large)
    words = [sys.executable, "-m", "tfserving.k8s.sync", f"file://{places.remote}", str(places.local), "--once"]
    # No process of the test's own can be let write less than it does.
    limited = ["sh", "-c", 'ulimit -f 100 && exec "$@"', "sh", *words]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"Error: cannot write {places.local}/digits/7: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert places.there() == {"digits/1"}
    assert subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode == 0
    assert places.there() == {"digits/1", "digits/7"}


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
    with pytest.raises(StoreError, match=r"cannot read .*models\.config"):
        places.sync(Wanted(config=tmp_path / "models.config"))
    with pytest.raises(StoreError, match="nonsense"):
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
    store: object_stores.Store,  # noqa: F811 - the fixture
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


def test_a_canary_s_version_is_one_of_its_model(places: Places, tmp_path: Path) -> None:
    """It is served under another name, from the same folder."""
    for number in (1, 2, 3):
        version(places.remote, number)
    text = config(tmp_path / "models.config", 1).read_text()
    own = text.removeprefix("model_config_list {").removesuffix("}")
    canary = own.replace('name: "digits"', 'name: "digits-canary"').replace("versions: 1", "versions: 2")
    path = tmp_path / "models.config"
    path.write_text(f"model_config_list {{{own}{canary}}}")
    assert places.sync(Wanted(newest=0, config=path)) == []
    assert places.there() == {"digits/1", "digits/2"}
