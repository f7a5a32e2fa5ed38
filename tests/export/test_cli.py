"""`tfserving export`, as a user types it."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.export.conftest import Project, digest, is_complete, make_project
from tests.export.forked import printed, start
from tests.servers import wait_for
from tfserving.export.manifest import read_manifest

# They fork exports from one process.
pytestmark = pytest.mark.xdist_group("export-processes")


@dataclass(frozen=True)
class FirstExport:
    """What `tfserving export build --json` did in a new project where one of two models can't be exported."""

    project: Project
    returncode: int
    stderr: str
    results: dict[str, Any]
    version: Path


@pytest.fixture(scope="module")
def first_export(tmp_path_factory: pytest.TempPathFactory) -> FirstExport:
    project = make_project(tmp_path_factory.mktemp("project"))
    done = project.run_alone("build", "--json")
    results = {result["model"]: result for result in json.loads(done.stdout)["models"]}
    return FirstExport(project, done.returncode, done.stderr, results, project.folder / "models" / "scale" / "1")


def test_one_model_that_fails_does_not_keep_the_others_from_being_exported(first_export: FirstExport) -> None:
    assert first_export.returncode == 1
    assert first_export.results["scale"]["status"] == "exported"
    assert first_export.results["unbuilt"]["status"] == "failed"
    assert "Error: unbuilt was not exported: Stack was not built: its variables" in first_export.stderr
    assert first_export.project.names("unbuilt") == set()


def test_the_result_says_what_was_exported_and_how_it_was_proved(first_export: FirstExport) -> None:
    result = first_export.results["scale"]
    assert result["version"] == 1
    assert Path(result["path"]) == first_export.version
    assert (result["golden_requests"], result["identical"], result["largest_difference"]) == (5, True, 0.0)
    assert result["metrics"] == {"rows": 40}


def test_progress_says_what_happens_now_and_tensorflow_keeps_quiet(first_export: FirstExport) -> None:
    lines = first_export.stderr.splitlines()
    for step in (
        "importing TensorFlow",
        "scale: building with zoo:scale",
        "scale: asking the live model and a fresh process",
    ):
        assert any(re.match(rf" *\d+\.\d s  {re.escape(step)}", line) for line in lines), lines
    talk = [line for line in lines if re.search(r"^[IWE]\d{4}|absl|oneDNN|cuda|AVX|Traceback", line, re.I)]
    assert not talk


def test_a_second_build_makes_version_2_and_does_not_touch_version_1(first_export: FirstExport) -> None:
    before = digest(first_export.version)
    done = first_export.project.run("build", "scale")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "scale: version 2 in models/scale/2, 5 golden requests verified equal\n"
    assert digest(first_export.version) == before
    assert is_complete(first_export.version.parent / "2")
    assert read_manifest(first_export.version.parent / "2").version == 2


def test_missing_exports_only_what_has_no_version(first_export: FirstExport) -> None:
    done = first_export.project.run("build", "scale", "--missing")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"scale: version \d is there already\n", done.stdout)
    assert not done.stderr


def test_a_builder_outside_the_fleet_needs_no_file(project: Project) -> None:
    (project.folder / "models.yaml").unlink()
    done = project.run("build", "mine=zoo:talking", "--folder", "elsewhere")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "mine: version 1 in elsewhere/mine/1, 5 golden requests verified equal\n"
    assert "a builder that prints" in done.stderr
    assert is_complete(project.folder / "elsewhere" / "mine" / "1")


def test_two_exports_at_the_same_time_get_different_versions(project: Project) -> None:
    exports = [start(project.folder, "build", "scale", "--json") for _ in range(2)]
    for export in exports:
        export.join(120)
    outputs = [printed(project.folder, export) for export in exports]
    assert [export.exitcode for export in exports] == [0, 0], outputs
    assert {json.loads(out)["models"][0]["version"] for out, _ in outputs} == {1, 2}
    assert project.names("scale") == {"1", "2"}
    for version in (1, 2):
        assert read_manifest(project.folder / f"models/scale/{version}").version == version


def test_the_versions_are_listed_with_their_metrics(first_export: FirstExport) -> None:
    done = first_export.project.run("list")
    assert done.returncode == 0, done.stderr
    assert re.match(r"scale  version 1  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00  rows 40\n", done.stdout)
    versions = json.loads(first_export.project.run("list", "scale", "--json").stdout)["versions"]
    assert (versions[0]["model"], versions[0]["version"], versions[0]["metrics"]) == ("scale", 1, {"rows": 40})


def test_a_version_that_something_else_wrote_is_listed_with_its_error(project: Project) -> None:
    (project.folder / "models/scale/7").mkdir(parents=True)
    done = project.run("list")
    assert done.returncode == 0
    assert re.fullmatch(
        r"scale  version 7  .*/7/assets\.extra/manifest\.json: No such file or directory\n", done.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["build", "nobody"], "Error: no model is called 'nobody'; the fleet has scale, unbuilt"),
        (["build", "x=zoo"], "Error: x=zoo: 'zoo' is neither 'module:function' nor the folder of a SavedModel"),
        (["build", "../x=zoo:scale"], "Error: '../x' can't name a model: "),
        (
            ["build", "--fleet", "other.yaml"],
            "Error: other.yaml: No such file or directory; write one, or name another",
        ),
        (["list", "nobody"], "Error: no model is called 'nobody'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told_before_anything_starts(project: Project, arguments: list[str], problem: str) -> None:
    done = project.run(*arguments)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "importing TensorFlow" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_hold_versions_is_told_before_anything_starts(project: Project) -> None:
    (project.folder / "models").write_text("a file")
    done = project.run("build", "scale")
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: {project.folder}/models is no folder; versions are to be written to {project.folder}/models/scale\n"
    )


def test_a_fleet_without_versions_has_none_to_list(project: Project) -> None:
    done = project.run("list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "There are no versions yet.\n")


def test_builders_that_cannot_be_found_are_told_before_tensorflow_is_imported(project: Project) -> None:
    done = project.run("build", "x=zoo:nothing", "y=nowhere:build", "--json")
    assert done.returncode == 1
    results = json.loads(done.stdout)["models"]
    assert [(result["model"], result["status"]) for result in results] == [("x", "failed"), ("y", "failed")]
    first, second = done.stderr.splitlines()
    assert re.match(
        r"Error: x was not exported: builder 'zoo:nothing': .*zoo\.py has no function 'nothing'; it has .*scale", first
    )
    assert second.startswith("Error: y was not exported: builder 'nowhere:build': there is no module 'nowhere'")


def test_a_builder_that_cannot_be_found_does_not_keep_the_others_from_being_exported(project: Project) -> None:
    (project.folder / "broken.py").write_text("import tensorflow, nowhere\ndef build(): ...\n")
    done = project.run("build", "x=broken:build", "scale", "y=nowhere:build", "--json")
    assert done.returncode == 1
    results = json.loads(done.stdout)["models"]
    assert {result["model"]: result["status"] for result in results} == {
        "x": "failed",
        "scale": "exported",
        "y": "failed",
    }
    assert f"at {project.folder}/broken.py:1: import tensorflow, nowhere" in done.stderr


def test_an_error_that_nobody_expected_is_of_one_model_only(project: Project) -> None:
    done = project.run("build", "x=zoo:broken", "scale", "--json")
    assert done.returncode == 1
    results = {result["model"]: result for result in json.loads(done.stdout)["models"]}
    failed = results["x"]
    assert (failed["status"], results["scale"]["status"]) == ("failed", "exported")
    assert failed["error"].startswith("LookupError: no children today\n  at ")
    assert "zoo.py" in failed["error"]
    assert "raise LookupError" in failed["error"]
    assert "Traceback" not in done.stderr


def test_ctrl_c_in_a_builder_ends_the_export_without_a_traceback(project: Project) -> None:
    process = project.start("build", "slow=zoo:slow")
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "the builder runs\n":
                os.kill(process.pid, signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert rest == "Stopped; nothing half done is left.\n"
    assert project.names("slow") == set()


def test_sigterm_while_the_version_is_written_removes_it(project: Project) -> None:
    process = start(project.folder, "build", "scale")
    try:
        wait_for(lambda: project.names("scale"), 120, "the hidden folder")
        process.terminate()
        process.join(60)
    finally:
        process.kill()
    out, err = printed(project.folder, process)
    assert process.exitcode == 143, err
    assert "Traceback" not in out + err
    assert project.names("scale") == set()
