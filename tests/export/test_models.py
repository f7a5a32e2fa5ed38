"""The samples: trained on what they say, and exported with the signatures that clients rely on."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from tests.export.conftest import ROOT, ExportedFleet, is_complete
from tests.exporting import run_export
from tests.rounding import assert_rounding_only
from tests.servers import Served
from tfserving.export.lint import lint_version
from tfserving.export.manifest import read_manifest
from tfserving.export.models.dense import Dense
from tfserving.export.rows import batch_of
from tfserving.foundation.golden import MANIFEST, WARMUP, read_golden, request_of
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.quality import value_of
from tfserving.foundation.records import read_records
from tfserving.serving.models_yaml.fleet import read_fleet

# The samples are trained once.
pytestmark = pytest.mark.xdist_group("samples")
SAMPLES = tuple(read_fleet(ROOT / "export/models/samples.yaml").models)


def served(fleet: ExportedFleet, model: str) -> Any:
    return tf.saved_model.load(str(fleet.models / model / "1")).signatures["serving_default"]


def test_the_fleet_is_exported_and_every_version_is_complete(exported_fleet: ExportedFleet) -> None:
    lines = exported_fleet.stdout.splitlines()
    assert len(lines) == len(SAMPLES)
    for model, line in zip(SAMPLES, lines, strict=True):
        assert line.startswith(f"{model}: version 1 in ")
        # On some processors a session's fused layers round otherwise.
        assert re.search(r" golden requests verified (equal|within tolerance, largest difference \S+)$", line)
        assert is_complete(exported_fleet.models / model / "1")


def test_every_sample_is_in_the_fleet_and_lints_clean(exported_fleet: ExportedFleet) -> None:
    modules = {path.stem for path in (ROOT / "export/models").glob("*.py")} - {"__init__"}
    assert set(SAMPLES) == modules
    for model in SAMPLES:
        found = lint_version(exported_fleet.models / model / "1")
        assert [finding for finding in found if not finding.note] == []
        # One of letters' signatures takes one example a request.
        assert [finding.rule for finding in found] == (["unbatched"] if model == "letters" else [])


def test_every_sample_is_served_equal_over_grpc_and_rest(exported_fleet: ExportedFleet, sample_server: Served) -> None:
    server = f"grpc://127.0.0.1:{sample_server.grpc_port},http://127.0.0.1:{sample_server.rest_port}"
    command = ["verify", "--server", server, "--json", str(exported_fleet.models)]
    done = subprocess.run(
        [sys.executable, "-m", "tfserving", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    rows = json.loads(done.stdout)["rows"]
    assert {(row["model"], row["protocol"]) for row in rows} == {
        (model, protocol) for model in SAMPLES for protocol in ("grpc", "rest")
    }
    assert all(row["ok"] for row in rows)
    assert_rounding_only(rows)
    asked = {(row["model"], row["signature"], row["protocol"]): row["requests"] for row in rows}
    golden = sum(len(read_golden(exported_fleet.models / model / "1").requests) for model in SAMPLES)
    assert sum(asked.values()) == 2 * golden


def test_digits_was_trained_for_this_and_showed_its_progress(exported_fleet: ExportedFleet) -> None:
    epochs = [line for line in exported_fleet.stderr.splitlines() if line.startswith("  epoch ")]
    assert len(epochs) == 20
    assert "accuracy" in epochs[-1]


def test_digits_reads_97_percent_of_images_it_never_saw(exported_fleet: ExportedFleet) -> None:
    accuracy = value_of(read_manifest(exported_fleet.models / "digits/1").metrics["test_accuracy"])
    assert accuracy >= 0.97
    digits = load_digits()
    labels = served(exported_fleet, "digits")(image=tf.constant(digits.images[..., None], tf.uint8))["label"].numpy()
    # Of all images, most of which it was trained on, it can't read fewer than of the others.
    assert np.mean(labels == digits.target) >= accuracy - 0.01


def test_digits_answers_probabilities_and_the_likeliest_label(exported_fleet: ExportedFleet) -> None:
    for request in read_golden(exported_fleet.models / "digits/1").requests[:-1]:
        scores, label = request.outputs["scores"], request.outputs["label"]
        assert (scores.dtype.name, scores.shape) == ("float32", (batch_of(request), 10))
        assert (label.dtype.name, label.shape) == ("int64", (batch_of(request),))
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(label, scores.argmax(axis=1))


def test_digits_takes_the_pixels_as_the_data_has_them(exported_fleet: ExportedFleet) -> None:
    for request in read_golden(exported_fleet.models / "digits/1").requests[:-1]:
        image = request.inputs["image"]
        assert (image.dtype.name, image.shape[1:]) == ("uint8", (8, 8, 1))
        assert 10 < image.max() <= 16


@pytest.mark.parametrize("batch", [1, 3, 33])
def test_any_batch_size_is_answered(exported_fleet: ExportedFleet, batch: int) -> None:
    assert served(exported_fleet, "dense")(features=tf.zeros((batch, 32)))["logits"].shape == (batch, 10)
    assert served(exported_fleet, "digits")(image=tf.zeros((batch, 8, 8, 1), tf.uint8))["scores"].shape == (batch, 10)


def test_dense_is_the_tutorials_model(exported_fleet: ExportedFleet) -> None:
    model = Dense()
    model(np.zeros((1, 32), np.float32))
    restored = tf.saved_model.load(str(exported_fleet.models / "dense/1")).used
    for path, variable in (
        ("hidden.kernel", model.hidden.kernel),
        ("hidden.bias", model.hidden.bias),
        ("logits.kernel", model.logits.kernel),
        ("logits.bias", model.logits.bias),
    ):
        assert restored[path].shape == variable.shape
        variable.assign(restored[path])
    for request in read_golden(exported_fleet.models / "dense/1").requests:
        np.testing.assert_array_equal(model(request.inputs["features"]).numpy(), request.outputs["logits"])


def test_warmup_requests_cover_the_batches_of_the_golden_ones_and_powers_of_two(exported_fleet: ExportedFleet) -> None:
    for model in ("digits", "dense"):
        folder = exported_fleet.models / model / "1"
        *sizes, edges = [batch_of(request) for request in read_golden(folder).requests]
        assert sizes == [1, 2, 7, 32]
        # An ordinary row, and every edge value but those that the export left out: trainings differ.
        why = read_manifest(folder).edge_values_left_out.get("serving_default", {})
        left_out = [edge for edges_left_out in why.values() for edge in edges_left_out]
        assert set(left_out) <= {"largest", "smallest", "nan"}
        # Bytes have no NaN.
        assert edges == (4 if model == "digits" else 5) - len(left_out)
        logs = [PredictionLog.FromString(record) for record in read_records(folder / WARMUP)]
        warm = [batch_of(request_of(log, responded=False)) for log in logs]
        assert warm[:5] == [1, 2, 7, 32, edges]
        # The powers of two that are missing. Edge values can be as many rows.
        assert warm[5:] == [size for size in (4, 8, 16) if size != edges]


def test_the_manifest_names_the_samples_builder(exported_fleet: ExportedFleet) -> None:
    manifest = json.loads((exported_fleet.models / "digits/1/assets.extra/manifest.json").read_text())
    assert manifest["builder"] == "tfserving.export.models.digits:build"


def test_the_manifest_has_the_digests_of_what_a_sample_was_trained_on(exported_fleet: ExportedFleet) -> None:
    found = {path.parent.name: read_manifest(path).provenance for path in exported_fleet.models.glob("*/1")}
    data = files("sklearn.datasets") / "data"
    csv = hashlib.sha256((data / "iris.csv").read_bytes()).hexdigest()
    assert found["custom"].training_data == {"iris.csv of scikit-learn": f"sha256:{csv}"}
    # Its data are random numbers from a seed.
    assert [name for name, one in found.items() if not one.training_data] == ["dense"]
    file = found["digits"].builder_file
    assert file is not None
    assert file.path.endswith("export/models/digits.py")
    assert file.sha256 == hashlib.sha256((ROOT / "export/models/digits.py").read_bytes()).hexdigest()


def test_the_chain_ends_at_the_server_and_shows_whether_it_has_the_same_manifest(
    exported_fleet: ExportedFleet, sample_server: Served, tmp_path: Path
) -> None:
    inspect = ["inspect", "--fleet", str(exported_fleet.fleet)]
    rest, grpc = sample_server.url("rest"), sample_server.url("grpc")
    for server in (rest, f"{grpc},{rest}"):
        shown = run_export(ROOT, *inspect, "wine/1", "--server", server).stdout
        assert re.search(r"^ *served +\S+: version 1 of wine is AVAILABLE, with the same manifest *$", shown, re.M), (
            shown
        )
    # gRPC has no place for it.
    shown = run_export(ROOT, *inspect, "wine/1", "--server", grpc).stdout
    assert "version 1 of wine is AVAILABLE; the digest of its manifest is not shown there" in shown
    # Another version of the same number, as after a folder was replaced.
    other = shutil.copytree(exported_fleet.models / "wine/1", tmp_path / "wine/1")
    manifest = read_manifest(other)
    (other / MANIFEST).write_text(manifest.model_copy(update={"metrics": {}}).text())
    shown = run_export(ROOT, *inspect, str(other), "--server", rest).stdout
    assert f"with another manifest, sha256:{manifest.digest}" in shown
    (other / MANIFEST).write_text(manifest.model_copy(update={"version": 2}).text())
    assert "the server does not have this version" in run_export(ROOT, *inspect, str(other), "--server", rest).stdout
