from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.serving.embedded.running import wait_until
from tfserving.serving.embedded.core.model_config import Model, VersionPolicy
from tfserving.serving.embedded.core.source import Source, list_versions

ALL = VersionPolicy(latest=None)


class Aspired:
    """What a source aspired, by model, last first."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []

    def __call__(self, model: str, versions: Mapping[int, Path]) -> None:
        self.calls.append((model, sorted(versions)))


def folders(base: Path, *names: str) -> Path:
    for name in names:
        (base / name).mkdir(parents=True)
    return base


def test_only_folders_whose_name_is_an_integer_are_versions(tmp_path: Path) -> None:
    folders(tmp_path, "1", "00000123", "-7", ".tmp-4", "tmp-5", "v2", "1.5", "1_0", "٣", "1 ", "99999999999999999999")
    (tmp_path / "8").write_text("a file")

    assert list_versions(tmp_path) == {
        -7: tmp_path / "-7",
        1: tmp_path / "1",
        123: tmp_path / "00000123",
    }


def test_a_poll_aspires_what_the_policy_chooses(tmp_path: Path) -> None:
    folders(tmp_path, "one/1", "one/2", "all/1", "all/2")
    aspired = Aspired()

    Source([Model("one", tmp_path / "one"), Model("all", tmp_path / "all", ALL)], aspired).poll()

    assert aspired.calls == [("one", [2]), ("all", [1, 2])]


def test_a_model_without_versions_any_more_aspires_to_none(tmp_path: Path) -> None:
    aspired = Aspired()

    Source([Model("m", tmp_path)], aspired).poll()

    assert aspired.calls == [("m", [])]


def test_a_base_path_that_is_gone_changes_nothing_stops_no_other_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders(tmp_path, "here/1")
    aspired = Aspired()
    source = Source([Model("gone", tmp_path / "gone"), Model("here", tmp_path / "here")], aspired)

    with caplog.at_level(logging.WARNING):
        source.poll()
        source.poll()

    assert aspired.calls == [("here", [1]), ("here", [1])]
    assert [record.getMessage() for record in caplog.records] == [
        f"model 'gone': can't read {tmp_path}/gone: No such file or directory; its versions stay as they are"
    ]


def test_versions_that_a_policy_names_and_that_are_not_there_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders(tmp_path, "1")
    aspired = Aspired()
    source = Source([Model("m", tmp_path, VersionPolicy(latest=None, specific=(9, 1, 7)))], aspired)

    with caplog.at_level(logging.WARNING):
        source.poll()
        source.poll()
        folders(tmp_path, "7")
        source.poll()

    assert aspired.calls == [("m", [1]), ("m", [1]), ("m", [1, 7])]
    assert [record.getMessage() for record in caplog.records] == [
        f"model 'm': {tmp_path} contains no version 7, 9",
        f"model 'm': {tmp_path} contains no version 9",
    ]


def test_a_link_that_leads_nowhere_is_no_version(tmp_path: Path) -> None:
    folders(tmp_path, "1", "elsewhere")
    for name, target in (("2", "2"), ("3", "nowhere"), ("4", "elsewhere")):
        (tmp_path / name).symlink_to(target)

    assert list(list_versions(tmp_path)) == [1, 4]


def test_a_started_source_sees_a_new_version(tmp_path: Path) -> None:
    folders(tmp_path, "1")
    aspired = Aspired()
    source = Source([Model("m", tmp_path)], aspired)
    source.start(0.01)
    folders(tmp_path, "2")
    wait_until("version 2 being aspired", lambda: ("m", [2]) in aspired.calls)

    source.stop()
    seen = len(aspired.calls)
    folders(tmp_path, "3")
    assert len(aspired.calls) == seen


@pytest.mark.parametrize("seconds", [0, -1])
def test_without_a_poll_nothing_is_seen_after_the_start(tmp_path: Path, seconds: float) -> None:
    aspired = Aspired()
    source = Source([Model("m", tmp_path)], aspired)

    source.start(seconds)
    source.stop()

    assert aspired.calls == []
