"""Builders are found by name, and errors say where theirs came from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.export import zoo
from tfserving.export.before_import import look_at
from tfserving.export.builders import find_builder, run_builder
from tfserving.export.errors import BuilderError, ServableError
from tfserving.foundation.user_modules import in_project

ROOT = Path(__file__).resolve().parents[2]


def write_module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the current folder."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


def test_a_builder_is_found_and_run() -> None:
    assert find_builder("tests.export.zoo:scale", ROOT) is zoo.scale
    assert set(run_builder("zoo:scale", zoo.scale).signatures) == {"serving_default"}


def test_a_module_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BuilderError) as error:
        find_builder("no_such_module.model:build", tmp_path)
    assert str(error.value) == (
        f"builder 'no_such_module.model:build': no module 'no_such_module' in {tmp_path}, and none is installed."
    )


def test_a_function_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "two_builders", "def build(): ...\ndef small(): ...\ndef _own(): ...\n", monkeypatch)
    with pytest.raises(BuilderError, match=r"two_builders\.py has no function 'make'; it has build, small"):
        find_builder("two_builders:make", tmp_path)


def test_a_function_with_arguments_is_refused() -> None:
    with pytest.raises(
        BuilderError, match=r"expected a function without arguments; calling this one fails: missing .*'rate'"
    ):
        find_builder("tests.export.zoo:with_arguments", ROOT)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("ROWS", "expected a function without arguments, got a ndarray"),
        ("waiting", "got an async function. Write `def`, and call async code with asyncio.run."),
        ("yielding", "got a generator. Write `return` instead of `yield`."),
    ],
)
def test_what_returns_no_servable_when_it_is_called_is_refused(name: str, problem: str) -> None:
    with pytest.raises(BuilderError) as error:
        find_builder(f"tests.export.zoo:{name}", ROOT)
    assert str(error.value).startswith(f"builder 'tests.export.zoo:{name}': ")
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("nowhere.model:build", "", "no module 'nowhere' in {folder}, and none is installed."),
        ("parts.mode:build", "", "no module 'parts.mode' in {folder}, and none is installed. Did you mean 'model'?"),
        (
            "parts.model.deep:build",
            "",
            "no module 'parts.model.deep' in {folder}, and none is installed. {file} is a module, not a package.",
        ),
        ("parts:build", "", "{folder}/parts/__init__.py has no function 'build'; it has none."),
        ("folder:build", "", "{folder}/folder is a folder without __init__.py, so it has no function 'build'."),
        (
            "parts.model:build",
            "def bild(): ...\ndef _own(): ...\n",
            "{file} has no function 'build'; it has bild. Did ",
        ),
        ("parts.model:build", "def other():\n    build = 1\n", "{file} has no function 'build'; it has other"),
        ("parts.model:build", "def build(:\n", "importing it raised SyntaxError: invalid syntax\n  at {file}:1: "),
    ],
)
def test_what_files_tell_of_a_builder_is_told_before_anything_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, problem: str
) -> None:
    file = parts(tmp_path, monkeypatch, text)
    with pytest.raises(BuilderError) as error:
        look_at(name, tmp_path)
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
    look_at("parts.model:build", tmp_path)
    assert "parts" not in sys.modules


def test_folders_in_folders_without_init_files_lead_to_a_module(tmp_path: Path) -> None:
    (tmp_path / "train/second").mkdir(parents=True)
    (tmp_path / "train/second/model.py").write_text("def build(): ...\n")
    look_at("train.second.model:build", tmp_path)
    with pytest.raises(BuilderError, match=r"no module 'train.second.other'"):
        look_at("train.second.other:build", tmp_path)
    with pytest.raises(BuilderError, match=r"train/second is a folder without __init__.py"):
        look_at("train.second:build", tmp_path)


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
        find_builder(f"broken_{abs(hash(text))}:build", tmp_path)
    assert f"importing it raised {problem}" in str(error.value)
    assert f"broken_{abs(hash(text))}.py:1: {text.strip()}" in str(error.value)


def test_a_builder_that_raises_is_told_with_its_line() -> None:
    with pytest.raises(BuilderError) as error:
        run_builder("zoo:failing", zoo.failing)
    assert str(error.value).startswith("builder 'zoo:failing' raised ValueError: no data in /data/train.csv\n  at ")
    assert 'raise ValueError("no data in /data/train.csv")' in str(error.value)


def test_a_builder_that_returns_something_else_is_refused() -> None:
    with pytest.raises(BuilderError, match=r"returned a dict, expected a tfserving\.export\.servable\.Servable"):
        run_builder("zoo:not_a_servable", zoo.not_a_servable)


def test_a_servable_is_checked_before_anything_else_happens() -> None:
    servable = zoo.scale()
    empty = type(servable)(servable.module, {}, {})
    with pytest.raises(ServableError, match="the servable has no signature"):
        run_builder("zoo:empty", lambda: empty)


@pytest.mark.parametrize("initialized", [True, False], ids=["packages", "folders"])
def test_the_projects_folders_come_before_those_of_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, initialized: bool
) -> None:
    # The clone's own packages of these names are on the path, as an editable install has it.
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    for name in ("serving", "export", "clients", "k8s"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delitem(sys.modules, f"{name}.own", raising=False)
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.py").write_text(f"NAME = {name!r}\n")
        if initialized:
            (tmp_path / name / "__init__.py").touch()
    text = (
        "import export.own, clients.own, k8s.own\ndef build():\n    return open('data.txt').read() + export.own.NAME\n"
    )
    (tmp_path / "serving/own.py").write_text(text)
    (tmp_path / "data.txt").write_text("from the ")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    name = "serving.own:build"
    look_at(name, tmp_path)
    with in_project(tmp_path):
        assert find_builder(name, tmp_path)() == "from the export"
    assert Path.cwd() == tmp_path / "below"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("queue", "a module of Python's standard library"),
        ("keras", "a package that TensorFlow imports"),
        ("yaml", "a module that is imported already, "),
    ],
)
def test_a_module_whose_name_is_taken_is_told_to_be_renamed(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / f"{name}.py").write_text("def build(): ...\n")
    with pytest.raises(BuilderError) as error:
        look_at(f"{name}:build", tmp_path)
    assert str(error.value).startswith(f"builder '{name}:build': {tmp_path}/{name}.py has the name of {kind}")
    assert str(error.value).endswith("Rename it.")


def test_an_error_that_comes_from_a_taken_name_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queue.py").write_text("def load(): ...\n")
    write_module(tmp_path, "uses_queue", "from queue import load\ndef build(): ...\n", monkeypatch)
    with in_project(tmp_path), pytest.raises(BuilderError) as error:
        find_builder("uses_queue:build", tmp_path)
    assert str(error.value).endswith(
        f"{tmp_path}/queue.py has the name of a module of Python's standard library. Rename it."
    )
