"""Where TensorFlow Serving's program is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import STAND_IN, install
from tfserving.foundation.model_server import VARIABLE, find_model_server, no_model_server


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program in a folder that is all of PATH."""
    installed = install(STAND_IN, tmp_path / "bin")
    monkeypatch.setenv("PATH", str(installed.parent))
    monkeypatch.delenv(VARIABLE, raising=False)
    return installed


def test_it_is_the_one_on_path(program: Path) -> None:
    assert find_model_server() == str(program)


@pytest.mark.parametrize("named", ["other/server", "./other/server", "{0}/other/server", "another"])
def test_the_variable_names_another_by_path_or_by_name(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    (tmp_path / "other").mkdir()
    target = program.rename(program.with_name("another") if named == "another" else tmp_path / "other/server")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, named.format(tmp_path))
    assert find_model_server() == str(target)


def test_one_that_is_not_there_is_named_and_no_other_is_taken(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "nowhere")
    assert find_model_server() is None
    assert no_model_server().startswith(f"{VARIABLE}=nowhere is neither an executable file nor a program on PATH; ")
    monkeypatch.delenv(VARIABLE)
    program.unlink()
    assert find_model_server() is None
    assert no_model_server() == (
        "no tensorflow_model_server is on PATH; install it, or set TENSORFLOW_MODEL_SERVER to its path"
    )
