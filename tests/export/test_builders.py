"""Builders are found by name, and errors say where theirs came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export import zoo
from tfserving.export.builders import find_builder, run_builder
from tfserving.export.errors import BuilderError, ServableError


def write_module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the current folder."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


def test_a_builder_is_found_and_run() -> None:
    assert find_builder("tests.export.zoo:scale") is zoo.scale
    assert set(run_builder("zoo:scale", zoo.scale).signatures) == {"serving_default"}


def test_a_module_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BuilderError) as error:
        find_builder("no_such_module.model:build")
    assert str(error.value) == (
        "builder 'no_such_module.model:build': there is no module 'no_such_module', "
        f"neither in {tmp_path} nor installed"
    )


def test_a_function_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "two_builders", "def build(): ...\ndef small(): ...\ndef _own(): ...\n", monkeypatch)
    with pytest.raises(BuilderError, match=r"two_builders\.py has no function 'make'; it has build, small"):
        find_builder("two_builders:make")


def test_a_function_with_arguments_is_refused() -> None:
    with pytest.raises(BuilderError, match=r"without arguments is needed, not one that is missing .*'rate'"):
        find_builder("tests.export.zoo:with_arguments")


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(BuilderError, match="a function without arguments is needed"):
        find_builder("tests.export.zoo:ROWS")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("x = 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def build(:\n", "SyntaxError"),
        ("raise SystemExit('bye')\n", "SystemExit: bye"),
    ],
    ids=["import", "error", "syntax", "exit"],
)
def test_a_module_that_cannot_be_imported_says_why_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    write_module(tmp_path, f"broken_{abs(hash(text))}", text, monkeypatch)
    with pytest.raises(BuilderError) as error:
        find_builder(f"broken_{abs(hash(text))}:build")
    assert f"importing it raised {problem}" in str(error.value)
    if "SyntaxError" not in problem:
        assert f"broken_{abs(hash(text))}.py:1: {text.strip()}" in str(error.value)


def test_a_builder_that_raises_is_told_with_its_line() -> None:
    with pytest.raises(BuilderError) as error:
        run_builder("zoo:failing", zoo.failing)
    assert str(error.value).startswith("builder 'zoo:failing' raised ValueError: no data in /data/train.csv\n  at ")
    assert 'raise ValueError("no data in /data/train.csv")' in str(error.value)


def test_a_builder_that_returns_something_else_is_refused() -> None:
    with pytest.raises(BuilderError, match=r"returned a dict, a tfserving\.export\.servable\.Servable is needed"):
        run_builder("zoo:not_a_servable", zoo.not_a_servable)


def test_a_servable_is_checked_before_anything_else_happens() -> None:
    servable = zoo.scale()
    empty = type(servable)(servable.module, {}, {})
    with pytest.raises(ServableError, match="the servable has no signature"):
        run_builder("zoo:empty", lambda: empty)
