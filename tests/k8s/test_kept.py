"""What rollouts keep, when it is cut in half, somebody else's, or of another form: never taken for no rollout."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tfserving.cli import tfserving
from tfserving.k8s.names import Names
from tfserving.k8s.rollout.kept import kept_state, models_config_of
from tfserving.k8s.rollout.local import LocalInstance, LocalStore
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import RolloutError, Serve
from tfserving.serving.engines import EngineError
from tfserving.serving.models_yaml.fleet import read_fleet
from tfserving.serving.running import Running

STATE = State("digits", 1, 2, {"stable": 1}, (1,), (2,))
SAID = asdict(STATE)
WRONG: dict[str, bytes] = {
    "cut": STATE.text().encode()[:15],
    "empty": b"",
    "a list": b"[]",
    "too little": b'{"model": "digits", "old": 1}',
    "another type": json.dumps({**SAID, "old": "1"}).encode(),
    "another phase": json.dumps({**SAID, "phase": "guessing"}).encode(),
    "more": json.dumps({**SAID, "surprise": 1}).encode(),
    "labels of text": json.dumps({**SAID, "labels": {"stable": "one"}}).encode(),
    "another model's": json.dumps({**SAID, "model": "Digits"}).encode(),
    "UTF-16": STATE.text().encode("utf-16"),
    "nested": b"[" * 100_000,
    "digits": b'{"model": "digits", "old": ' + b"9" * 5000 + b"}",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "models.yaml").write_text(
        "models:\n  digits:\n    builder: tests.scaled:build\n    labels: {stable: 1}\n"
    )
    return tmp_path / "models.yaml"


@pytest.mark.parametrize("fault", WRONG)
def test_every_command_names_the_file_and_a_way_out(file: Path, fault: str) -> None:
    store = LocalStore(read_fleet(file), "digits")
    store.save(STATE)
    path = store._path("json")
    path.write_bytes(WRONG[fault])
    for words in (("status",), ("start",), ("start", "--dry-run"), ("pause",), ("promote",), ("abort",), ("undo",)):
        command, *options = words
        done = CliRunner().invoke(tfserving, ["rollout", command, "digits", *options, "--fleet", str(file)])
        assert isinstance(done.exception, SystemExit), words
        assert done.exit_code == 2, words
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"Error: {path} "), words
        assert f"Discard the rollout with `rm {path}`" in line
    assert path.read_bytes() == WRONG[fault]
    path.unlink()
    assert (
        "has never been rolled out"
        in CliRunner().invoke(tfserving, ["rollout", "status", "digits", "--fleet", str(file)]).stdout
    )


def test_a_state_that_is_no_file_is_told(file: Path) -> None:
    store = LocalStore(read_fleet(file), "digits")
    path = store._path("json")
    path.mkdir(parents=True)
    with pytest.raises(
        RolloutError,
        match=r"digits\.json is not the state of a rollout: Is a directory\. Discard the rollout with `rm -r ",
    ):
        store.load()
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(RolloutError, match="it is not a file"):
        store.load()
    store._path("lock").mkdir()
    with pytest.raises(EngineError, match=r"digits\.lock can't be written: Is a directory"):
        store.held()


def config_map(data: dict[str, Any] | None, model: str = "digits") -> dict[str, Any]:
    return {"metadata": {"name": Names().rollout(model)}, "data": data}


@pytest.mark.parametrize("fault", WRONG)
def test_a_config_map_of_another_form_is_told_by_name(fault: str) -> None:
    if fault == "empty":
        # One that was asked for something before there was a rollout.
        assert kept_state(config_map(None)) is kept_state(config_map({"state": ""})) is None
        return
    with pytest.raises(RolloutError) as caught:
        kept_state(config_map({"state": WRONG[fault].decode("latin-1")}), "digits")
    assert "ConfigMap serving-rollout-digits" in str(caught.value)
    assert "`kubectl delete configmap serving-rollout-digits`" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["model_config_list {", "\0", None])
def test_a_configuration_that_is_cut_is_told(tmp_path: Path, text: str | None) -> None:
    with pytest.raises(RolloutError, match=r"ConfigMap serving-rollout-digits, models\.config: "):
        models_config_of(config_map(None if text is None else {"models.config": text}))
    path = tmp_path / "models.config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EngineError, match=r"models\.config, the server's configuration, can't be read: "):
        LocalInstance(Running("native", "127.0.0.1", 1, 2, ("digits",), pid=1), path).configure(Serve("digits", ()))


def test_no_two_models_share_a_config_map_or_a_lease() -> None:
    models = ["a_b", "a-b", "A.B", "a.b", "A-B", "a--b", "a-b.", "a-b-", "0", "a" * 200, "a" * 201, "_", "Ä", "a\n"]
    found = {Names().rollout(model) for model in models}
    # A model can't be called as another's ConfigMap.
    found |= {Names().rollout(name.removeprefix("serving-rollout-")) for name in found}
    plain = [model for model in models if Names().rollout(model) == f"serving-rollout-{model}"]
    assert plain == ["a-b", "a--b", "0"]
    assert len(found) == 2 * len(models) - len(plain)
    # https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
    for name in found:
        assert len(name) <= 253
        for part in name.split("."):
            assert part.strip("-") == part
            assert set(part) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
