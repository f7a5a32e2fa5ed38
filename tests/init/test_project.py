"""`tfserving init`: what it creates works as it is, and nothing that was there is changed."""

from __future__ import annotations

import csv
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.exporting import run_export, typed_in
from tfserving.cli import tfserving
from tfserving.init.project import KINDS
from tfserving.serving.models_yaml.fleet import read_fleet


def init(folder: Path, kind: str = "function", *more: str) -> Result:
    return CliRunner().invoke(tfserving, ["init", str(folder), "--from", kind, "--no-train", *more])


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of each kind, in a folder called after it."""
    folder = tmp_path_factory.mktemp("projects")
    for kind in KINDS:
        done = init(folder / kind, kind)
        assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_has_the_files_of_its_kind_and_no_trace_of_a_template(projects: Path, kind: str) -> None:
    found = files(projects / kind)
    assert {".github/workflows/serve.yml", ".gitignore", "README.md", "tests/test_served.py", "data/iris.csv"} <= {
        *found
    }
    assert ("builder.py" in found) == (kind != "saved-model")
    assert ("train.py" in found) == (kind != "function")
    for name, text in found.items():
        assert not any(mark in text for mark in ("\n#: ", "__model__", "__toolkit__")), name
    assert ("python train.py" in found["README.md"]) == (kind != "function")
    assert [*read_fleet(projects / kind / "models.yaml").models] == ["iris"]


def test_projects_are_clean(projects: Path, tmp_path: Path) -> None:
    """By the settings of their own, in folders of their own."""
    program = Path(sys.executable).with_name
    for arguments in (["check"], ["format", "--diff"]):
        subprocess.run([program("ruff"), *arguments, "--quiet", "--no-cache", projects], check=True)
    for kind in KINDS:
        done = subprocess.run(
            [program("mypy"), "--cache-dir", tmp_path, "."],
            cwd=projects / kind,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["keras-file", "saved-model", "checkpoint"])
def test_what_train_py_writes_is_exported(projects: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The kind `function` is served and verified, by its own tests, in tests/test_install.py."""
    folder = projects / kind
    before = run_export(folder, "build")
    assert before.returncode != 0, "nothing is trained yet"
    assert "train.py" in before.stderr or "trained/saved_model" in before.stderr
    with typed_in(folder):
        runpy.run_path("train.py", run_name="__main__")
    accuracy = float(capsys.readouterr().out.partition("other flowers: ")[2].split()[0])
    assert accuracy >= 0.9
    done = run_export(folder, "build")
    assert done.returncode == 0, done.stderr
    assert "golden requests verified equal" in done.stdout


def test_the_data_is_fishers_as_scikit_learn_has_it(projects: Path) -> None:
    from sklearn.datasets import load_iris

    lines = (projects / "function/data/iris.csv").read_text().splitlines()
    rows = [[*row.values()] for row in csv.DictReader(line for line in lines if not line.startswith("#"))]
    iris = load_iris()
    np.testing.assert_array_equal(np.array([row[:4] for row in rows], float), iris.data)
    assert [row[4] for row in rows] == [iris.target_names[label] for label in iris.target]
    assert "Fisher" in lines[0]


def test_a_file_that_is_there_stays_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_served.py").write_text("mine")
    (tmp_path / "README.md").write_text("mine")
    done = init(tmp_path)
    assert done.exit_code == 2
    assert "already has README.md, tests/test_served.py, and no file is overwritten" in done.stderr
    assert files(tmp_path) == {"README.md": "mine", "tests/test_served.py": "mine"}


def test_a_project_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Here `tests`, where the last file goes, is no folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/tests").write_text("a file")
    done = init(tmp_path / "mine")
    assert done.exit_code == 2
    assert f"no project can be created in {tmp_path / 'mine'}: " in done.stderr
    assert files(tmp_path) == {"mine/tests": "a file"}


def test_a_folder_that_cannot_be_created_is_an_error() -> None:
    done = init(Path("/proc/project"))
    assert done.exit_code == 2
    assert "no project can be created in /proc/project: /proc/project: No such file or directory. Name" in done.stderr


def test_the_tutorial_changes_a_line_that_a_project_has(projects: Path) -> None:
    pages = [Path(__file__).parents[2] / "docs/tutorial.md"]
    found = [
        line for page in pages for line in re.findall(r"^sed -i\.bak 's/(.+?)/.+/' (\S+)$", page.read_text(), re.M)
    ]
    assert found
    for text, file in found:
        assert text in (projects / "function" / file).read_text()


@pytest.mark.parametrize("name", ["a b", "", "-a", 'a"', "a/b"])
def test_a_name_that_no_model_can_have_is_refused(tmp_path: Path, name: str) -> None:
    done = init(tmp_path / "new", "function", f"--name={name}")
    assert done.exit_code == 2
    assert f"{name!r} can't name a model" in done.stderr
    assert not (tmp_path / "new").exists()


def test_the_next_commands_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    done = init(Path("a project"), "keras-file", "--name", "flowers")
    lines = [line.strip() for line in done.stdout.splitlines()][-5:]
    assert lines == [
        "cd 'a project'",
        "python train.py",
        "tfserving serve",
        "tfserving predict flowers",
        "tfserving verify",
    ]
    assert Path.cwd() == tmp_path
    assert [*read_fleet(tmp_path / "a project/models.yaml").models] == ["flowers"]
