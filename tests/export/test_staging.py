"""A version appears whole or not at all, and never in the place of another."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from tfserving.export.staging import PREFIX, Staging


def stage(folder: Path, text: str = "new") -> Path:
    """Publishes a version whose one file holds `text`."""
    with Staging(folder) as staging:
        (staging.version_folder / "file").write_text(text)
        return staging.publish(int)


def test_versions_are_numbered_from_1(tmp_path: Path) -> None:
    assert [stage(tmp_path / "m").name for _ in range(3)] == ["1", "2", "3"]
    assert {child.name for child in (tmp_path / "m").iterdir()} == {"1", "2", "3"}


def test_the_next_number_is_higher_than_any_name_that_a_server_reads_as_one(tmp_path: Path) -> None:
    (tmp_path / "00000007").mkdir()
    (tmp_path / "9").write_text("a file")
    (tmp_path / "v12").mkdir()
    assert stage(tmp_path).name == "10"


def test_a_number_that_another_exporter_took_first_is_left_to_it(tmp_path: Path) -> None:
    told: list[int] = []

    def finish(number: int) -> None:
        told.append(number)
        if len(told) == 1:
            assert stage(tmp_path, "the other's").name == "1"

    with Staging(tmp_path) as staging:
        (staging.version_folder / "file").write_text("mine")
        assert staging.publish(finish).name == "2"
    assert told == [1, 2]
    assert [(tmp_path / name / "file").read_text() for name in ("1", "2")] == ["the other's", "mine"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> None:
        with Staging(tmp_path / "m") as staging:
            (staging.version_folder / "file").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fails()
    assert not (tmp_path / "m").exists()


def test_what_fails_leaves_the_other_versions(tmp_path: Path) -> None:
    stage(tmp_path)
    with pytest.raises(KeyboardInterrupt), Staging(tmp_path):
        raise KeyboardInterrupt
    assert [child.name for child in tmp_path.iterdir()] == ["1"]


def test_ctrl_c_while_the_folder_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path) -> None:
        assert [child.name[: len(PREFIX)] for child in folder.iterdir()] == [PREFIX]
        raise KeyboardInterrupt

    monkeypatch.setattr("tfserving.export.staging._remove_abandoned", interrupted)
    with pytest.raises(KeyboardInterrupt), Staging(tmp_path / "m"):
        pytest.fail("it was interrupted before")
    assert not (tmp_path / "m").exists()


def test_the_folder_of_a_living_exporter_is_left_alone(tmp_path: Path) -> None:
    with Staging(tmp_path) as living:
        (living.version_folder / "file").write_text("first")
        stage(tmp_path)
        assert (living.version_folder / "file").read_text() == "first"
        assert living.publish(int).name == "2"


def test_the_folder_of_a_dead_exporter_is_removed(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        staging = Staging(tmp_path)
        staging.__enter__()
        (staging.version_folder / "file").write_text("half")
        os._exit(0)
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(PREFIX)
    stage(tmp_path)
    assert [child.name for child in tmp_path.iterdir()] == ["1"]


def test_the_folder_of_another_machine_is_left_until_it_is_a_week_old(tmp_path: Path) -> None:
    # Its lock may be one that this machine can't see.
    folder = tmp_path / f"{PREFIX}0000abcd-0123456789ab"
    folder.mkdir()
    (folder / "lock").touch()
    stage(tmp_path)
    assert folder.exists()
    week = time.time() - 8 * 24 * 3600
    os.utime(folder, (week, week))
    stage(tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize("content", [[], ["version/saved_model.pb"], ["lock"]], ids=["empty", "no lock", "lock only"])
def test_a_folder_whose_exporter_died_while_making_or_removing_it_is_removed(
    tmp_path: Path, content: list[str]
) -> None:
    folder = tmp_path / f"{PREFIX}abc"
    folder.mkdir()
    for name in content:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    stage(tmp_path)
    assert not folder.exists()


def test_others_may_read_a_version(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        path = stage(tmp_path / "m")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert stat.S_IMODE((path / "file").stat().st_mode) == 0o644
