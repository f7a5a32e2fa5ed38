"""`tfserving export`, as a user types it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.export.conftest import Project, digest, is_complete, make_project
from tests.export.forked import printed, start
from tests.exporting import run_export
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
    error = json.loads(first_export.stderr.splitlines()[-1])["error"]
    assert error["message"].startswith("unbuilt was not exported: Stack was not built: its variables")
    assert error["exit_code"] == 1
    assert first_export.project.names("unbuilt") == set()


def test_the_result_says_what_was_exported_and_how_it_was_proved(first_export: FirstExport) -> None:
    result = first_export.results["scale"]
    assert result["version"] == 1
    assert Path(result["path"]) == first_export.version
    assert (result["golden_requests"], result["identical"], result["largest_difference"]) == (5, True, 0.0)
    assert result["metrics"] == {"rows": 40}


def test_tensorflow_keeps_quiet(first_export: FirstExport) -> None:
    lines = first_export.stderr.splitlines()
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
    assert done.stdout == "Every model has a version.\n"
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
    (model,) = json.loads(first_export.project.run("list", "scale", "--json").stdout)["models"]
    assert (model["name"], model["versions"][0]["version"], model["versions"][0]["metrics"]) == (
        "scale",
        1,
        {"rows": 40},
    )


def test_a_version_that_something_else_wrote_is_listed_with_its_error(project: Project) -> None:
    (project.folder / "models/scale/7").mkdir(parents=True)
    done = project.run("list")
    assert done.returncode == 0
    assert re.fullmatch(
        r"scale  version 7  .*/7 has no assets\.extra/manifest\.json: .*\nunbuilt  no versions yet\n", done.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["build", "nobody"], "Error: no model is called 'nobody'; the fleet has scale, unbuilt"),
        (["build", "x=zoo"], "Error: x=zoo: expected NAME=MODULE:FUNCTION, NAME=FOLDER"),
        (["build", "../x=zoo:scale"], "Error: '../x' is not a model name. "),
        (["build", "--fleet", "other.yaml"], "Error: there is no file other.yaml."),
        (["list", "nobody"], "Error: no model is called 'nobody'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told_before_anything_starts(project: Project, arguments: list[str], problem: str) -> None:
    done = project.run(*arguments)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_hold_versions_is_told_before_anything_starts(project: Project) -> None:
    (project.folder / "models").write_text("a file")
    done = project.run("build", "scale")
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: {project.folder}/models is not a folder, so no version can be written to "
        f"{project.folder}/models/scale\n"
    )


def test_a_fleet_without_versions_has_none_to_list(project: Project) -> None:
    done = project.run("list")
    assert (done.returncode, done.stdout) == (0, "scale  no versions yet\nunbuilt  no versions yet\n")


def test_builders_that_cannot_be_found_are_told_before_tensorflow_is_imported(project: Project) -> None:
    done = project.run("build", "x=zoo:nothing", "y=nowhere:build", "--json")
    assert done.returncode == 2
    results = json.loads(done.stdout)["models"]
    assert [(result["model"], result["status"]) for result in results] == [("x", "failed"), ("y", "failed")]
    (line,) = done.stderr.splitlines()
    error = json.loads(line)["error"]
    assert error["exit_code"] == 2
    first, second = error["message"].splitlines()
    assert re.match(
        r"x was not exported: builder 'zoo:nothing': .*zoo\.py has no function 'nothing'; it has .*scale", first
    )
    assert second.startswith("y was not exported: builder 'nowhere:build': no module 'nowhere' in")


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
    error = json.loads(done.stderr.splitlines()[-1])["error"]["message"]
    assert f"at {project.folder}/broken.py:1: import tensorflow, nowhere" in error


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
    assert rest.endswith("\nStopped.\n")
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


def test_wrong_inputs_are_found_before_tensorflow_is_imported(project: Project) -> None:
    (project.folder / "bad.json").write_text("{")
    (project.folder / "no_model").mkdir()
    wrong = {
        "build x=nowhere:build": "no module 'nowhere'",
        "build x=zoo:scael": "Did you mean 'scale'?",
        "build x=zoo:servable": "requires module, function",
        "build x=no_model": "it has no file saved_model.pb",
        "build scale --golden bad.json": "bad.json can't be read as .json",
        "build scale --from-checkpoint no_model": "no_model has no checkpoint",
        "build scael": "no model is called 'scael'",
        "inspect no_model": "is not a SavedModel",
        "check scael/1": "Did you mean 'scale'?",
        "lint scale": "model 'scale' has no versions in models/scale. Export one: ",
        "diff scale no_model": "has no versions",
        "publish scael elsewhere": "Did you mean 'scale'?",
        "prune scael --keep 1": "no model is called 'scael'",
    }
    code = (
        "import sys; sys.modules['tensorflow'] = None; from tfserving.cli import tfserving\n"
        "for line in sys.argv[1:]:\n"
        "    try: tfserving.main(['export', *line.split(), '--json'])\n"
        "    except SystemExit as exit: assert exit.code == 2, (line, exit.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *wrong],
        cwd=project.folder,
        env=project.env,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors = [json.loads(line)["error"]["message"] for line in done.stderr.splitlines()]
    for (line, problem), error in zip(wrong.items(), errors, strict=True):
        assert problem in error, line


def test_a_project_is_used_from_any_working_folder(project: Project) -> None:
    # A file that the builder opens, and the golden requests, are beside models.yaml.
    (project.folder / "serving").mkdir()
    (project.folder / "serving/model.py").write_text(
        "import zoo\ndef build():\n    print(open('data.txt').read())\n    return zoo.scale()\n"
    )
    (project.folder / "data.txt").write_text("read beside models.yaml")
    (project.folder / "mine.json").write_text('{"inputs": [[1, 2, 3]]}')
    yaml = "models:\n  scale: {builder: 'serving.model:build', golden: [mine.json]}\n"
    (project.folder / "models.yaml").write_text(yaml)
    below = project.folder / "serving/below"
    below.mkdir()
    done = run_export(below, "build")
    assert done.returncode == 0, done.stderr
    assert "read beside models.yaml" in done.stderr
    assert is_complete(project.folder / "models/scale/1")
    listed = json.loads(run_export(below, "list", "--json").stdout)["models"]
    assert [version["version"] for version in listed[0]["versions"]] == [1]
    assert not any(below.iterdir())


def test_batch_sizes_of_one_build_are_options(project: Project) -> None:
    done = project.run("build", "scale", "--batch-size", "8", "--batch-size", "3")
    assert done.returncode == 0, done.stderr
    shown = json.loads(project.run("inspect", "scale", "--json").stdout)
    assert shown["golden_requests"] == {"serving_default": [1, 2, 3, 7, 8, 5]}
    assert shown["warmup_requests"] == {"serving_default": [1, 2, 3, 7, 8, 5, 4]}
    refused = project.run("build", "scale", "--batch-size", "0")
    assert refused.returncode == 2
    assert "0 is not in the range 1<=x<=65536" in refused.stderr
