"""Which versions are served under which name: what clients get that give neither version nor label."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.fleets import fleet
from tfserving.serving import threads
from tfserving.serving.config import in_container, models_config
from tfserving.serving.lint import problems
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.served import Served, all_served, configured, loaded, model_of, newer_on_disk, served, summary


def of(folder: Path, settings: str, versions: int = 3) -> Fleet:
    """A fleet whose model has these settings and versions 1, 2, … on disk."""
    return fleet(folder, f"models: {{digits: {{builder: 'm:build', {settings}}}}}\n", versions=versions)


@pytest.mark.parametrize(
    ("model", "own", "labels", "canary"),
    [
        ("", (3,), {}, ()),
        ("versions: 2", (2, 3), {}, ()),
        ("versions: all", (1, 2, 3), {}, ()),
        ("versions: [1, 2]", (1, 2), {}, ()),
        ("labels: {previous: 1}", (1, 3), {"previous": 1}, ()),
        # Without `stable` a canary is a label as any other.
        ("labels: {canary: 2}", (2, 3), {"canary": 2}, ()),
        ("labels: {stable: 2}", (2,), {"stable": 2}, ()),
        ("labels: {stable: 3}", (3,), {"stable": 3}, ()),
        ("labels: {stable: 2, previous: 1}", (1, 2), {"stable": 2, "previous": 1}, ()),
        ("labels: {stable: 2, canary: 3}", (2,), {"stable": 2}, (3,)),
        ("labels: {stable: 3, canary: 1}", (3,), {"stable": 3}, (1,)),
        ("labels: {stable: 2, canary: 2}", (2,), {"stable": 2}, (2,)),
        ("labels: {stable: 2, canary: 3, previous: 1}", (1, 2), {"stable": 2, "previous": 1}, (3,)),
        ("labels: {stable: 2}, versions: all", (1, 2), {"stable": 2}, ()),
        ("labels: {stable: 2, canary: 3}, versions: all", (1, 2), {"stable": 2}, (3,)),
        ("labels: {stable: 3}, versions: 2", (2, 3), {"stable": 3}, ()),
        ("labels: {stable: 2}, versions: 1", (2,), {"stable": 2}, ()),
        ("labels: {stable: 2}, versions: [1, 2]", (1, 2), {"stable": 2}, ()),
    ],
)
def test_what_is_served_under_which_name(
    tmp_path: Path, model: str, own: tuple[int, ...], labels: dict[str, int], canary: tuple[int, ...]
) -> None:
    read = of(tmp_path, model)
    first, *others = served(read, "digits")
    assert (first.name, first.versions, dict(first.labels)) == ("digits", own, labels)
    assert [(one.name, one.versions, dict(one.labels)) for one in others] == (
        [("digits-canary", canary, {"canary": canary[0]})] if canary else []
    )
    if "stable" in labels:
        assert max(own) == labels["stable"]
        assert not first.newest
    assert problems(read, ("digits",)) == []
    assert loaded(read, "digits") == sorted([*own, *canary])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            "labels: {stable: 1, next: 2}",
            "models.digits.labels: label 'next' is for version 2, which is newer than 'stable', version 1. Requests "
            "without a label get the newest version, so only 'canary' may be newer",
        ),
        (
            "labels: {stable: 1}, versions: [1, 2, 3]",
            "models.digits.versions: [2, 3] are newer than 'stable', version 1. Requests without a label get the "
            "newest version. Remove them, or move 'stable'",
        ),
        (
            "labels: {stable: 2}, versions: [1]",
            "label 'stable' is for version 2, which is not served, because",
        ),
        ("labels: {stable: 1, canary: 9}", "label 'canary' is for version 9, which is not in "),
        ("labels: {stable: 9}", "label 'stable' is for version 9, which is not in "),
        (
            "labels: {stable: 3, old: 1}, versions: 1",
            "label 'old' is for version 1, which is not served, because",
        ),
    ],
)
def test_what_would_give_clients_another_version_than_stable_is_refused(
    tmp_path: Path, settings: str, problem: str
) -> None:
    (said,) = problems(of(tmp_path, settings), ("digits",))
    assert problem in str(said)
    assert not said.warning


def test_a_label_stable_that_is_new_may_not_take_another_models_name(tmp_path: Path) -> None:
    """models.yaml can't say so; `labels set` could."""
    read = fleet(tmp_path, "models: {digits: {builder: 'm:build'}, digits-canary: {builder: 'm:build'}}\n")
    assert problems(read, ("digits",)) == []
    (said,) = problems(read.with_labels("digits", {"stable": 1}), ("digits",))
    assert str(said) == (
        "models.digits-canary: this is the name of the canary of 'digits', which has a label 'stable'. Rename the model"
    )


def test_limits_count_the_canary_too(tmp_path: Path) -> None:
    plain = "server: {memory: 400m, image: 'tensorflow/serving:2.21.0'}, models: {digits: {builder: 'm:build', labels: "
    read = fleet(tmp_path, f"{{{plain}{{stable: 2}}}}}}}}\n")
    with_canary = read.with_labels("digits", {"stable": 2, "canary": 3})
    assert threads.needed(with_canary, ("digits",)) == threads.needed(read, ("digits",)) + threads.LOADING
    # A rollout has the old version, and the new one under both names.
    for version in (2, 3):
        with (tmp_path / f"models/digits/{version}/variables").open("wb") as file:
            file.truncate(20 << 20)
    for one in (read, with_canary):
        (said,) = problems(one, ("digits",))
        assert "got 400 MiB, expected at least 410 MiB" in str(said)
        assert "'digits' with 60 MiB" in str(said)


def test_a_version_that_only_the_canary_has_is_checked_too(tmp_path: Path) -> None:
    read = of(tmp_path, "labels: {stable: 2, canary: 3}")
    (tmp_path / "models/digits/3/assets.extra/tf_serving_warmup_requests").unlink()
    (said,) = problems(read, ("digits",))
    assert str(said).startswith("Warning: models.digits: version 3 has no warm-up requests")


def test_a_configuration_says_what_is_served_under_which_name(tmp_path: Path) -> None:
    read = of(tmp_path, "labels: {stable: 2, canary: 3, previous: 1}")
    assert configured(models_config(read, ("digits",), in_container())) == all_served(read, ("digits",))
    (newest,) = configured(models_config(read.with_labels("digits", {}), ("digits",), in_container()))
    assert newest == Served("digits", "digits", (), {}, newest=True)


def test_a_canary_is_a_version_of_its_model(tmp_path: Path) -> None:
    read = of(tmp_path, "labels: {stable: 1}")
    assert [model_of(read, name) for name in ("digits", "digits-canary", "other")] == ["digits", "digits", "other"]


@pytest.mark.parametrize(
    ("settings", "version", "words"),
    [
        ("", 3, "version 3, the newest"),
        ("", 2, "version 2, the newest; version 3 is on disk but not loaded"),
        (
            "versions: [1]",
            1,
            "version 1, the newest that `versions` lists; 2 newer versions, up to 3, are on disk but not in `versions`",
        ),
        ("labels: {previous: 1}", 3, "version 3, the newest; previous → 1"),
        ("labels: {stable: 3}", 3, "version 3, stable"),
        ("labels: {stable: 2}", 2, "version 2, stable; version 3 is on disk but not stable"),
        ("labels: {stable: 1}", 1, "version 1, stable; 2 newer versions, up to 3, are on disk but not stable"),
        ("labels: {stable: 2, previous: 1, canary: 3}", 2, "version 2, stable; previous → 1"),
        ("labels: {stable: 1, canary: 2}", 1, "version 1, stable; version 3 is on disk but not stable"),
    ],
)
def test_people_see_which_version_clients_get_and_why(tmp_path: Path, settings: str, version: int, words: str) -> None:
    read = of(tmp_path, settings)
    everything = served(read, "digits")
    assert summary(read, everything[0], version, everything) == words
    for canary in everything[1:]:
        assert summary(read, canary, canary.versions[0], everything) == f"version {canary.versions[0]}, canary"
        assert newer_on_disk(read, canary, 1, everything) == []
