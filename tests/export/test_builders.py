"""Builders are found by name, and errors say where theirs came from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.export import zoo
from tfserving.export.before_import import look_at
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


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("ROWS", "a function without arguments is needed, not a ndarray"),
        ("waiting", "not an async one: write `def`, and call what is async with asyncio.run"),
        ("yielding", "not one that yields: write `return`"),
    ],
)
def test_what_returns_no_servable_when_it_is_called_is_refused(name: str, problem: str) -> None:
    with pytest.raises(BuilderError) as error:
        find_builder(f"tests.export.zoo:{name}")
    assert str(error.value).startswith(f"builder 'tests.export.zoo:{name}': ")
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("nowhere.model:build", "", "there is no module 'nowhere', neither in {folder} nor installed"),
        ("parts.nowhere:build", "", "there is no module 'parts.nowhere', neither in {folder} nor installed"),
        (
            "parts.model.deep:build",
            "",
            "there is no module 'parts.model.deep', neither in {folder} nor installed; {file} is no package",
        ),
        ("parts:build", "", "{folder}/parts/__init__.py has no function 'build'; it has none"),
        ("folder:build", "", "{folder}/folder is a folder without __init__.py, it has no 'build'"),
        ("parts.model:build", "def other(): ...\ndef _own(): ...\n", "{file} has no function 'build'; it has other"),
        ("parts.model:build", "def other():\n    build = 1\n", "{file} has no function 'build'; it has other"),
        ("parts.model:build", "def build(:\n", "importing it raised SyntaxError: invalid syntax\n  at {file}:1: "),
    ],
)
def test_what_files_tell_of_a_builder_is_told_before_anything_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, problem: str
) -> None:
    file = parts(tmp_path, monkeypatch, text)
    with pytest.raises(BuilderError) as error:
        look_at(name)
    assert str(error.value).startswith(f"builder {name!r}: {problem.format(folder=tmp_path, file=file)}")
    assert "parts" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "def build(): ...\n",
        "class build: ...\n",
        "from json import loads as build\n",
        "from json import *\n",
        "if True:\n    try:\n        build, more = 1, 2\n    finally:\n        pass\n",
        "for build in (print,): ...\n",
        "with open('x') as build: ...\n",
        "globals()['build'] = print\n",
        "def make():\n    global build\n    build = print\n",
        "def __getattr__(name): return print\n",
        "import sys\nsys.modules[__name__] = print\n",
    ],
)
def test_a_function_that_a_module_may_have_is_left_to_its_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    parts(tmp_path, monkeypatch, text)
    look_at("parts.model:build")
    assert "parts" not in sys.modules


def parts(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    """A package `parts` with a module `model`, and a folder that is no package; the module's file."""
    for name in ("parts", "folder"):
        (folder / name).mkdir()
    (folder / "parts/__init__.py").write_text("raise AssertionError('it was imported')\n")
    file = folder / "parts/model.py"
    file.write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    return file


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
