"""Changing what is served while it is served: reloads, labels, and the file that is polled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.embedded.running import wait_until
from tfserving.foundation.files import written_whole
from tfserving.serving.embedded.core.configuration import Configuration
from tfserving.serving.embedded.core.loader import Runtime, load
from tfserving.serving.embedded.core.manager import Manager
from tfserving.serving.embedded.core.model_config import Model, VersionPolicy
from tfserving.serving.embedded.core.served import Served
from tfserving.serving.embedded.core.source import Source
from tfserving.serving.embedded.core.view import State
from tfserving.serving.embedded.errors import Code, RequestError

ALL = VersionPolicy(latest=None)


class Serving:
    """A manager, its source and its configuration, which begins with the model `scale`."""

    def __init__(self, models: Path, *, allow_any_label: bool = False) -> None:
        self.scale = Model("scale", models / "scale", ALL)
        self.served = Served(lambda name, version, path: load(name, version, path, Runtime()))
        self.manager = Manager(self.served)
        self.source = Source([self.scale], self.manager.aspire)
        self.source.poll()
        self.manager.wait_until_settled(threading.Event())
        self.configuration = Configuration([self.scale], self.manager, self.source, allow_any_label=allow_any_label)

    def labelled(self, **labels: int) -> Model:
        return Model("scale", self.scale.base_path, ALL, labels)

    def refuses(self, *models: Model) -> RequestError:
        before = self.manager.available()
        with pytest.raises(RequestError) as refused:
            self.configuration.apply(models)
        assert self.manager.available() == before
        return refused.value


@pytest.fixture
def serving(models: Path) -> Iterator[Serving]:
    serving = Serving(models)
    yield serving
    serving.manager.stop(30)


def test_a_new_model_is_available_when_the_reload_returns(serving: Serving, models: Path) -> None:
    serving.configuration.apply([serving.scale, Model("again", models / "scale")])
    assert serving.manager.available() == {"scale": [1, 2], "again": [2]}


def test_a_model_that_is_no_longer_there_is_unloaded_and_comes_back(serving: Serving, models: Path) -> None:
    serving.configuration.apply([Model("again", models / "scale")])
    wait_until("it is unloaded", lambda: not serving.manager.available()["scale"])
    assert [status.state for status in serving.served.view.statuses("scale")] == [State.END, State.END]
    serving.configuration.apply([serving.scale])
    assert serving.manager.available()["scale"]
    wait_until("the other is unloaded", lambda: not serving.manager.available()["again"])


def test_a_model_that_is_wanted_again_while_it_is_unloaded_comes_back(serving: Serving) -> None:
    with serving.served.handle("scale", 1):
        serving.configuration.apply([])
        wait_until(
            "it waits for the handle", lambda: serving.served.view.statuses("scale", 1)[0].state is State.UNLOADING
        )
        serving.configuration.apply([serving.scale])
    wait_until("both are there", lambda: serving.manager.available()["scale"] == [1, 2])


def test_a_label_moves_at_once(serving: Serving) -> None:
    for version in (1, 2, 1):
        serving.configuration.apply([serving.labelled(stable=version)])
        with serving.served.handle("scale", label="stable") as servable:
            assert servable.version == version


def test_a_label_of_what_is_not_available_is_refused_and_nothing_changes(serving: Serving, models: Path) -> None:
    serving.configuration.apply([serving.labelled(stable=1)])
    error = serving.refuses(serving.labelled(stable=7), Model("again", models / "scale"))
    assert error.code is Code.FAILED_PRECONDITION
    assert error.text == (
        "Request to assign label to version 7 of model scale, which is not currently available for inference"
    )
    with serving.served.handle("scale", label="stable") as servable:
        assert servable.version == 1


def test_only_a_new_label_may_name_what_is_not_available_when_that_is_allowed(models: Path) -> None:
    serving = Serving(models, allow_any_label=True)
    serving.configuration.apply([serving.labelled(ghost=44)])
    with pytest.raises(RequestError, match=r"Servable not found for request: Specific\(scale, 44\)"):
        serving.served.handle("scale", label="ghost")
    assert serving.refuses(serving.labelled(ghost=45)).code is Code.FAILED_PRECONDITION
    serving.manager.stop(30)


def test_a_model_without_versions_is_refused(serving: Serving, tmp_path: Path) -> None:
    error = serving.refuses(serving.scale, Model("none", tmp_path / "none"))
    assert (error.code, error.text) == (
        Code.NOT_FOUND,
        f"Could not find base path {tmp_path}/none for servable none",
    )
    assert (
        serving.refuses(Model("none", tmp_path)).text
        == f"No versions of servable none found under base path {tmp_path}"
    )


def test_a_model_that_does_not_load_is_told(serving: Serving, models: Path) -> None:
    with pytest.raises(RequestError) as failed:
        serving.configuration.apply([serving.scale, Model("broken", models / "broken", ALL)])
    assert failed.value.code is Code.UNKNOWN
    assert failed.value.text.startswith(
        "1 model(s) did not become available: {{{name: broken version: 1} due to error: "
    )
    assert serving.manager.available()["scale"] == [1, 2]


def config(path: Path, *models: tuple[str, Path]) -> None:
    entries = (f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" }}' for name, base in models)
    with written_whole(path) as file:
        file.write(f"model_config_list {{{' '.join(entries)}}}".encode())


def test_the_file_is_applied_when_it_changes_and_nonsense_is_left_alone(
    serving: Serving, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "models.config"
    config(file, ("again", models / "scale"))
    serving.configuration.follow(file, 0.02)
    wait_until("the new model", lambda: serving.manager.available().get("again") == [2])
    wait_until("the old one is gone", lambda: not serving.manager.available()["scale"])
    file.write_text("this is { not a config")
    wait_until("it is told", lambda: "models.config was not applied" in caplog.text)
    assert serving.manager.available()["again"] == [2]
    config(file, ("scale", models / "scale"))
    wait_until("it goes on", lambda: serving.manager.available()["scale"] == [2])
    serving.configuration.stop()
    assert caplog.text.count("was not applied") == 1
