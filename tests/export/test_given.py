"""Golden requests of one's own, from files."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export import zoo
from tests.export.conftest import Project
from tests.export.test_examples import flowers
from tfserving.export.errors import ServableError
from tfserving.export.exporter import Exported
from tfserving.export.given import read_given
from tfserving.foundation.golden import read_golden

SIGNATURES = zoo.scale().signatures


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("one.json", {"inputs": {"rows": [[1, 2, 3]]}}, [[[1, 2, 3]]]),
        ("instances.json", {"instances": [[1, 2, 3], [4, 5, 6]]}, [[[1, 2, 3], [4, 5, 6]]]),
        ("two.json", [{"inputs": [[1, 2, 3]]}, {"inputs": [[4, 5, 6]]}], [[[1, 2, 3]], [[4, 5, 6]]]),
        ("lines.jsonl", '{"inputs": [[1, 2, 3]]}\n\n{"instances": [[4, 5, 6]]}\n', [[[1, 2, 3]], [[4, 5, 6]]]),
    ],
    ids=["object", "instances", "list", "lines"],
)
def test_json_holds_bodies_of_rest_requests(tmp_path: Path, name: str, content: Any, rows: list[Any]) -> None:
    given = read_given(write(tmp_path, name, content), SIGNATURES)
    assert [request.inputs["rows"].tolist() for request in given] == rows
    assert all(request.inputs["rows"].dtype == np.float32 for request in given)


def test_npz_holds_an_array_for_each_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", rows=zoo.ROWS[:3])
    (given,) = read_given(tmp_path / "rows.npz", SIGNATURES)
    np.testing.assert_array_equal(given.inputs["rows"], zoo.ROWS[:3])


def test_bytes_are_base64_as_over_rest(tmp_path: Path) -> None:
    value = {"b64": base64.b64encode(b"\xff\x00").decode()}
    path = write(tmp_path, "bytes.json", {"signature_name": "loud", "inputs": {"text": [value]}})
    (given,) = read_given(path, zoo.texts().signatures)
    assert (given.signature, given.inputs["text"].tolist()) == ("loud", [b"\xff\x00"])


def test_examples_are_features_by_name(tmp_path: Path) -> None:
    body = {"signature_name": "length", "examples": [{"length": 1.5, "name": "rose"}]}
    (given,) = read_given(write(tmp_path, "examples.json", body), flowers().signatures)
    assert given.inputs["inputs"].shape == (1,)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", "{", "a.json can't be read as .json: "),
        ("a.json", [1], "a.json, request 0: expected a JSON object, got 1"),
        ("a.jsonl", '{"inputs": [[1, 2, 3]]}\n7\n', "a.jsonl:2: expected a JSON object, got 7"),
        (
            "a.json",
            {"signature_name": "x", "inputs": []},
            "a.json: there is no signature 'x'; the signatures are 'serv",
        ),
        ("a.json", {"inputs": {"columns": [[1, 2, 3]]}}, "a.json: "),
        ("a.json", {"inputs": [[1, 2]]}, "a.json: "),
        ("a.json", {"inputs": [["a", "b", "c"]]}, "a.json: "),
        ("a.json", {"inputs": [[1, 2, 3]], "outputs": [1]}, "outputs must be an object with the expected values"),
        ("a.csv", "1,2,3", "a.csv: expected a file .json, .jsonl, .npz"),
        ("a.npz", "no archive", "a.npz can't be read as .npz"),
    ],
    ids=["no json", "no object", "line", "signature", "input", "shape", "dtype", "outputs", "suffix", "archive"],
)
def test_what_cannot_be_asked_is_told_with_file_and_request(
    tmp_path: Path, name: str, content: Any, problem: str
) -> None:
    with pytest.raises(ServableError) as refused:
        read_given(write(tmp_path, name, content), SIGNATURES)
    assert str(refused.value).startswith(str(tmp_path))
    assert problem in str(refused.value)


def test_they_become_golden_requests_with_the_live_answer(export_here: Callable[..., Exported], tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "mine.json",
        [{"inputs": [[1, 2, 3]]}, {"inputs": [[4, 5, 6]], "outputs": {"scaled": [[8, 15, 24]]}}],
    )
    exported = export_here(zoo.scale, golden=(path,))
    requests = read_golden(exported.path).requests
    assert [request.outputs["scaled"].tolist() for request in requests[-2:]] == [[[2, 6, 12]], [[8, 15, 24]]]
    assert exported.proof.requests == len(requests) == 7


def test_another_answer_than_the_file_wants_stops_the_export(
    export_here: Callable[..., Exported], tmp_path: Path
) -> None:
    path = write(tmp_path, "mine.jsonl", '{"inputs": [[1, 2, 3]], "outputs": {"scaled": [[2, 6, 13]]}}\n')
    with pytest.raises(ServableError) as refused:
        export_here(zoo.scale, golden=(path,))
    assert f"output 'scaled': {path}:1 expects other outputs than the model returns: largest difference 1" in str(
        refused.value
    )
    assert "Correct the file or the model" in str(refused.value)
    assert not (tmp_path / "models/model").exists()


def test_models_yaml_and_the_command_line_name_files(project: Project) -> None:
    write(project.folder, "mine.json", {"inputs": [[1, 2, 3]]})
    np.savez(project.folder / "more.npz", rows=zoo.ROWS[:4])
    (project.folder / "models.yaml").write_text(
        "models:\n  scale: {builder: 'zoo:scale', golden: [mine.json], batch_sizes: [1, 8]}\n"
    )
    done = project.run("build", "--golden", "more.npz", "--json")
    assert done.returncode == 0, done.stderr
    # 1, 2, 7 and 8 rows, edge values, and the two files.
    assert json.loads(done.stdout)["models"][0]["golden_requests"] == 7
    requests = read_golden(project.folder / "models/scale/1").requests
    assert [len(request.inputs["rows"]) for request in requests] == [1, 2, 7, 8, 5, 1, 4]
    (project.folder / "mine.json").write_text("{}")
    wrong = project.run("build")
    assert wrong.returncode == 1
    assert f"Error: scale was not exported: {project.folder}/mine.json: " in wrong.stderr
    assert project.names("scale") == {"1"}
