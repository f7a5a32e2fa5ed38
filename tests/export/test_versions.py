"""`inspect`, `diff` and `prune`: what versions consist of, how two differ, and which may go."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tests.export.conftest import ROOT, Project, export_to
from tests.exporting import run_export
from tests.servers import Served, serve
from tfserving.export.differences import MetricChange, diff_versions
from tfserving.export.inspection import inspect_version
from tfserving.export.manifest import read_manifest
from tfserving.export.servable import Servable, Signature
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.golden import MANIFEST

BUILDER = "builder: tests.export.zoo:scale"
PROTOCOLS = ("grpc", "rest")


def factor(value: float) -> Callable[[], Servable]:
    """`scale` with another factor in its last column, and a signature more when that isn't 4."""

    def build() -> Servable:
        servable = zoo.scale()
        servable.module.factor.assign([2.0, 3.0, value])
        if value == 4:
            return servable
        module, only = servable.module, servable.signatures["serving_default"]
        module.offset = tf.Variable(1.0)
        more = Signature(lambda rows: {"shifted": rows + module.offset}, only.inputs, ("shifted",))
        examples = servable.examples["serving_default"]
        return Servable(
            module,
            {"serving_default": only, "shift": more},
            {"serving_default": examples, "shift": examples},
            {"rows": 40, "error": 0.5},
        )

    return build


def test_a_version_is_shown_whole(exported: Project) -> None:
    done = exported.run("inspect", "scale/1")
    assert done.returncode == 0, done.stderr
    for line in (
        r"state +intact: every file is as it was exported",
        r"model +scale, version 1",
        r"builder +zoo:scale, zoo\.py, sha256:\w{64}",
        r"exported +\d{4}-.* with tfserving .*",
        r"rows +40",
        r"tolerance float32, cpu +1e-05 \+ 1e-05 of the value",
        r"saved_model.pb +[\d.]+ kB",
        r"golden, serving_default +5 requests, of 1, 2, 7, 32, 5 rows",
        r"golden outputs +computed on cpu",
        r"tolerance float32, gpu-tf32 +0\.001 \+ 1e-05 of the value \+ 0\.005 of the row's largest",
        r"warm-up, serving_default +8 requests, of 1, 2, 7, 32, 5, 4, 8, 16 rows",
        r"serving_default +predict +in rows +float32 \(\?, 3\)",
        r"serving_default +predict +out scaled +float32 \(\?, 3\)",
        r"factor\S* +float32 \(3,\) +3",
    ):
        assert re.search(rf"^ *{line} *$", done.stdout, re.M), (line, done.stdout)
    assert "\x1b[" not in done.stdout


def test_the_same_comes_as_json_without_tensorflow(exported: Project) -> None:
    commands = "main(['inspect', 'scale/1', '--json'], standalone_mode=False); main(['diff', 'scale/1', 'scale/1'])"
    code = f"import sys; sys.modules['tensorflow'] = None; from tfserving.export.cli import main; {commands}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=exported.folder,
        env=exported.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown, end = json.JSONDecoder().raw_decode(done.stdout)
    assert re.search(r"^ *1 variables +equal *$", done.stdout[end:], re.M)
    assert shown["signatures"]["serving_default"]["inputs"] == {"rows": {"dtype": "float32", "shape": [None, 3]}}
    assert shown["golden_requests"] == {"serving_default": [1, 2, 7, 32, 5]}
    assert shown["size_bytes"]["total"] == sum(size for part, size in shown["size_bytes"].items() if part != "total")
    assert shown["manifest"]["builder"] == "zoo:scale"


def test_what_something_else_wrote_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    module = zoo.Scale()
    function = tf.function(lambda rows: {"scaled": rows * module.factor})
    concrete = function.get_concrete_function(tf.TensorSpec((None, 3), tf.float32, name="rows"))
    tf.saved_model.save(module, str(tmp_path / "foreign"), signatures=concrete)
    shown = inspect_version(tmp_path / "foreign")
    assert shown.state == "no manifest: another program wrote it, so it can't be verified"
    assert list(shown.signatures) == ["serving_default"]
    assert [(variable.dtype, variable.shape, variable.size) for variable in shown.variables] == [("float32", (3,), 3)]
    assert (shown.golden, shown.warmup, shown.manifest) == ({}, {}, None)


def test_a_damaged_version_says_so_in_its_state(copied: Path) -> None:
    (copied / "assets.extra/golden.tfrecord").write_bytes(b"")
    shown = inspect_version(copied)
    assert shown.state.startswith(f"{copied} was changed since its export:")
    assert "assets.extra/golden.tfrecord: got 0 bytes" in shown.state


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1, the same again as 2, and 3 with another weight, a signature and a metric more; to be read."""
    folder = tmp_path_factory.mktemp("versions")
    for value in (4.0, 4.0, 5.0):
        export_to(folder, factor(value))
    return folder


def test_two_exports_of_the_same_are_equal(versions: Path) -> None:
    diff = diff_versions(versions / "1", versions / "2")
    assert (diff.signatures, diff.weights, diff.weights_equal, diff.breaking) == ((), (), 1, False)
    (answer,) = diff.outputs
    assert (answer.verdict, answer.requests, answer.rows, answer.rows_different) == ("equal", 5, 47, 0)


def recorded(folder: Path, value: float, **changes: Any) -> Path:
    """A version with another weight, whose manifest has `changes`."""
    path = export_to(folder, factor(value)).path
    (path / MANIFEST).write_text(read_manifest(path).model_copy(update=changes).text())
    return path


def test_outputs_are_compared_with_the_old_versions_set_for_the_devices_that_computed_them(
    versions: Path, tmp_path: Path
) -> None:
    # 4 to 4.0001 is 2.5e-5 of the value: more than a processor rounds, and within the set that is written here.
    wide = {"gpu": {"float32": Tolerance(1e-5, 1e-5, 1e-4)}, "cpu": {"float32": Tolerance(1e-5, 1e-5)}}
    old = recorded(tmp_path / "old", 4.0, tolerances=wide)
    new = recorded(tmp_path / "new", 4.0001, golden_device="NVIDIA H200", tolerances={**wide, "gpu-tf32": {}})
    by_processor, by_gpu = (diff_versions(one, new).outputs[0] for one in (versions / "1", old))
    assert by_gpu.verdict == "within tolerance"
    assert by_gpu.rows_different == 0
    diff = diff_versions(old, new)
    assert (diff.device, diff.as_json()["device"]) == ("gpu", "gpu")
    # The first version has the table's set, without room for it.
    assert by_processor.verdict == "different"
    again = diff_versions(versions / "1", versions / "3")
    assert (again.device, again.tolerances) == ("cpu", ())
    shown = [(one.device, one.dtype, one.old, one.new) for one in diff_versions(versions / "1", old).tolerances]
    assert shown == [
        ("gpu", "float32", Tolerance(1e-5, 1e-5, 1e-5), Tolerance(1e-5, 1e-5, 1e-4)),
        ("gpu-tf32", "float32", Tolerance(1e-3, 1e-5, 5e-3), None),
    ]


def test_two_versions_differ_in_signatures_weights_metrics_and_answers(versions: Path) -> None:
    diff = diff_versions(versions / "1", versions / "3")
    assert [(change.signature, change.what, change.breaking) for change in diff.signatures] == [
        ("shift", "added", False)
    ]
    added, changed = sorted(diff.weights, key=lambda change: change.what)
    assert (added.variable, added.what) == ("offset", "added")
    assert (changed.variable, changed.what, changed.largest) == ("factor", "changed", 1.0)
    # The root mean square of (0, 0, 1) over that of (2, 3, 4).
    assert changed.relative == pytest.approx(1 / np.sqrt(4 + 9 + 16))
    assert diff.metrics == (MetricChange("error", None, 0.5, False), MetricChange("rows", 40.0, 40.0, None))
    assert [change.verdict for change in diff.metrics] == ["added", "equal"]
    (answer,) = diff.outputs
    assert (answer.signature, answer.output, answer.verdict) == ("serving_default", "scaled", "different")
    # Zeros and what isn't a number stay; the largest is infinite times anything.
    assert answer.rows_different == 43
    assert diff.requests_in_one_only == 5


def test_the_difference_is_printed_and_comes_as_json(versions: Path, project: Project) -> None:
    done = project.run("diff", str(versions / "1"), str(versions / "3"))
    assert done.returncode == 0, done.stderr
    for line in (
        r"shift +added",
        r"error +0\.5 +added",
        r"factor +changed +1 +0\.1857",
        r"serving_default +scaled +different +\S+ +43 of 47",
        r"5 requests +in one version only",
    ):
        assert re.search(rf"^ *{line} *$", done.stdout, re.M), (line, done.stdout)
    shown = json.loads(project.run("diff", str(versions / "3"), str(versions / "1"), "--json").stdout)
    assert shown["breaking"] is True
    assert shown["signatures"] == [{"signature": "shift", "what": "removed", "breaking": True}]


@pytest.fixture
def fleet(versions: Path, tmp_path: Path) -> Path:
    """A fleet with copies of those versions, of which the first is labelled; returns its file."""
    file = tmp_path / "models.yaml"
    file.write_text(f"models:\n  model:\n    {BUILDER}\n    labels: {{stable: 1}}\n")
    shutil.copytree(versions, tmp_path / "models/model")
    assert left(file) == {"1", "2", "3"}
    return file


def prune(fleet: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_export(ROOT, "prune", "--fleet", str(fleet), *arguments)


def left(fleet: Path, model: str = "model") -> set[str]:
    return {path.name for path in (fleet.parent / "models" / model).iterdir()}


def test_prune_keeps_the_newest_and_what_has_a_label(fleet: Path) -> None:
    dry = prune(fleet, "--keep", "1", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.splitlines() == [
        f"{fleet.parent}/models/model/1  kept: labelled stable",
        f"{fleet.parent}/models/model/2  would be removed",
    ]
    assert left(fleet) == {"1", "2", "3"}
    done = prune(fleet, "--keep", "1", "--json")
    assert json.loads(done.stdout)["versions"] == [
        {"model": "model", "version": 1, "removed": False, "kept": "labelled stable"},
        {"model": "model", "version": 2, "removed": True, "kept": ""},
    ]
    assert left(fleet) == {"1", "3"}
    assert prune(fleet, "--keep", "5").stdout == "Nothing to remove: no model has more than 5 versions.\n"


@dataclass(frozen=True)
class ServedFleet:
    """A server and its fleet: a copy of the versions for each protocol, the first one stable, the second the canary."""

    file: Path
    server: Served


@pytest.fixture(scope="module")
def served_fleet(versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    folder = tmp_path_factory.mktemp("served")
    for name in PROTOCOLS:
        shutil.copytree(versions, folder / "models" / name)
        shutil.copytree(versions / "3", folder / "models" / name / "4")
    models = "".join(f"  {name}:\n    {BUILDER}\n    labels: {{stable: 1, canary: 2}}\n" for name in PROTOCOLS)
    (folder / "models.yaml").write_text(f"models:\n{models}")
    run = [sys.executable, "-m", "tfserving", "serve", "--fleet", str(folder / "models.yaml")]
    ports = ["--port", "{port}", "--rest-port", "{rest_port}", "--engine", "embedded"]
    with serve([*run, *ports], ROOT) as server:
        yield ServedFleet(folder / "models.yaml", server)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_prune_keeps_what_a_server_has(served_fleet: ServedFleet, tmp_path: Path, protocol: str) -> None:
    # The server has what is stable, and the canary under another name; without labels in the file it still has them.
    models = served_fleet.file.parent / "models"
    assert left(served_fleet.file, protocol) == {"1", "2", "3", "4"}
    (tmp_path / "models.yaml").write_text(f"folder: {models}\nmodels:\n  {protocol}:\n    {BUILDER}\n")
    done = prune(tmp_path / "models.yaml", "--keep", "1", "--server", served_fleet.server.url(protocol))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{models}/{protocol}/1  kept: loaded by a server",
        f"{models}/{protocol}/2  kept: loaded by a server",
        f"{models}/{protocol}/3  removed",
    ]
    assert left(served_fleet.file, protocol) == {"1", "2", "4"}


def test_labels_are_what_the_server_gives_its_versions(served_fleet: ServedFleet) -> None:
    from tfserving.clients import connect

    with connect(served_fleet.server.url("grpc")) as client:
        stable = client.predict("rest", [[1, 1, 1]], label="stable", signature="serving_default")
        unlabelled = client.predict("rest", [[1, 1, 1]], signature="serving_default")
        canary = client.predict("rest-canary", [[1, 1, 1]], signature="serving_default")
    assert (stable.version, stable.outputs["scaled"].tolist()) == (1, [[2.0, 3.0, 4.0]])
    assert unlabelled.version == 1
    assert (canary.version, canary.outputs["scaled"].shape) == (2, (1, 3))


@pytest.mark.parametrize(
    ("arguments", "returncode", "problem"),
    [
        (["--keep", "0"], 2, "0 is not in the range x>=1"),
        ([], 2, "Missing option '--keep'"),
        (["--keep", "1", "nobody"], 2, "no model is called 'nobody'"),
        (["--keep", "1", "--server", "localhost"], 2, "--server: "),
        (["--keep", "1", "--server", "grpc://127.0.0.1:9"], 3, "so nothing was removed: no gRPC server is listening"),
    ],
    ids=["zero", "missing", "model", "address", "unreachable"],
)
def test_what_cannot_be_pruned_is_told_and_nothing_is_removed(
    fleet: Path, arguments: list[str], returncode: int, problem: str
) -> None:
    done = prune(fleet, *arguments)
    assert done.returncode == returncode
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert left(fleet) == {"1", "2", "3"}


@pytest.mark.parametrize(
    "arguments", [["inspect", "nowhere"], ["diff", "nowhere", "scale"], ["inspect", "scale/9"]], ids=" ".join
)
def test_a_version_that_is_not_there_is_wrong_usage(exported: Project, arguments: list[str]) -> None:
    done = exported.run(*arguments)
    assert done.returncode == 2
    assert f"{arguments[1]!r} is neither a model nor" in done.stderr or "has no version 9" in done.stderr
    assert "importing" not in done.stderr


def test_list_shows_labels(fleet: Path) -> None:
    done = run_export(ROOT, "list", "--fleet", str(fleet), "--json")
    (model,) = json.loads(done.stdout)["models"]
    rows: list[dict[str, Any]] = model["versions"]
    assert (model["name"], model["folder"]) == ("model", str(fleet.parent / "models/model"))
    assert [(row["version"], row["labels"]) for row in rows] == [(1, ["stable"]), (2, []), (3, [])]
