"""The process that proves a version: what it can't import, what it answers, and how its failures are told."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf

from tests.export import zoo
from tests.exporting import fresh_process
from tfserving.export import fresh, proof, savedmodel
from tfserving.export.errors import ProofError
from tfserving.export.golden import golden_requests
from tfserving.export.manifest import ServedSignature
from tfserving.export.proof import DESCRIPTORS, FreshProcess, Proof, prove
from tfserving.export.servable import Servable
from tfserving.export.tolerances import Judge
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.messages import PredictionLog

SHAPES = (
    r"signature 'serving_default', output 'scaled': it was loaded as float32 \(\?, 3\) and written as float32 \(\?, 2\)"
)
ROOT = Path(__file__).resolve().parents[2]


def write(servable: Servable, folder: Path) -> dict[str, ServedSignature]:
    return savedmodel.write_savedmodel(servable, savedmodel.trace(servable), folder)


def prove_fresh(
    folder: Path, signatures: dict[str, ServedSignature], requests: Iterable[GoldenRequest]
) -> tuple[list[GoldenRequest], Proof]:
    return prove(fresh_process(), folder, signatures, requests, Judge(), {"zoo"})


def test_it_cannot_import_the_models_code_nor_keras_nor_this_toolkit(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("raise AssertionError('imported')")
    code = f"""
import importlib, io, json, runpy, sys
sys.path.append({str(tmp_path)!r})
sys.path.append({str(Path(fresh.__file__).parents[2])!r})
sys.stdin = io.TextIOWrapper(io.BytesIO())
sys.argv = ["fresh.py", {str(DESCRIPTORS)!r}]
out = sys.stdout
script = runpy.run_path({fresh.__file__!r})
script["main"]()
(refusal,) = (hook for hook in sys.meta_path if type(hook).__name__ == "Refusal")
refusal.packages.add("theirs")
refused = {{}}
for name in ("theirs", "theirs.layers", "tfserving.export.models.dense", "tfserving", "keras", "keras.layers"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        refused[name] = str(error)
print(json.dumps([refused, "tensorflow" in sys.modules, "keras" in sys.modules]), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused, tensorflow, keras = json.loads(done.stderr.splitlines()[-1])
    assert len(refused) == 6
    assert all("can't be imported here: a served model must not need it" in error for error in refused.values())
    assert (tensorflow, keras) == (True, False)


def test_what_is_refused_can_be_found_but_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "found_module.py").write_text("")
    (tmp_path / "other_module.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [fresh.Refusal({"found_module"}), *sys.meta_path])
    assert importlib.util.find_spec("found_module") is not None
    with pytest.raises(ImportError, match="found_module can't be imported here"):
        importlib.import_module("found_module")
    importlib.import_module("other_module")


def test_it_answers_every_golden_request_as_a_function_and_in_a_session(tmp_path: Path) -> None:
    servable = zoo.texts()
    write(servable, tmp_path / "version")
    requests = list(golden_requests(servable))
    process = fresh_process()
    process.load(tmp_path / "version", fresh.WAYS, {"zoo"})
    for request in requests:
        process.send(request)
    for _ in fresh.WAYS:
        assert set(process.signatures()) == {"serving_default", "loud"}
    for request in requests:
        for _ in fresh.WAYS:
            for name, answered in process.outputs(request).items():
                np.testing.assert_array_equal(answered, request.outputs[name])


def test_what_nobody_wanted_to_know_of_a_version_is_no_answer_about_the_next(tmp_path: Path) -> None:
    process = fresh_process()
    for name, servable, taken in (("texts", zoo.texts(), 0), ("trained", zoo.trained(), 1), ("scale", zoo.scale(), 5)):
        write(servable, tmp_path / name)
        requests = list(golden_requests(servable))
        process.load(tmp_path / name, fresh.WAYS)
        for request in requests:
            process.send(request)
        # An export that fails leaves the rest.
        for _ in fresh.WAYS[: 2 * taken]:
            assert set(process.signatures()) == set(servable.signatures)
        for request in requests[:taken]:
            for _ in fresh.WAYS:
                for output, answered in process.outputs(request).items():
                    np.testing.assert_array_equal(answered, request.outputs[output])


def test_a_version_that_answers_as_the_live_model_is_proven_equal(tmp_path: Path) -> None:
    servable = zoo.texts()
    signatures = write(servable, tmp_path / "version")
    requests, proven = prove_fresh(tmp_path / "version", signatures, golden_requests(servable))
    assert len(requests) == 10
    assert (proven.requests, proven.identical, proven.largest, str(proven)) == (10, True, 0.0, "equal")


def test_a_large_version_is_loaded_one_way_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "LARGE", 1)
    loads = []
    load = FreshProcess.load

    def noted(self: FreshProcess, folder: Path, ways: list[str], refused: Iterable[str] = ()) -> None:
        loads.append(tuple(ways))
        load(self, folder, ways, refused)

    monkeypatch.setattr(FreshProcess, "load", noted)
    servable = zoo.trained()
    signatures = write(servable, tmp_path / "version")
    requests, proven = prove_fresh(tmp_path / "version", signatures, golden_requests(servable))
    assert sorted(loads) == [("function",), ("session",)]
    assert (len(requests), proven.requests, proven.identical) == (5, 5, True)


def test_a_variable_that_only_functions_find_is_no_proof(tmp_path: Path) -> None:
    # A Keras variable tracked as itself: functions read its value, a session finds it uninitialised.
    servable = zoo.trained()
    root = tf.Module()
    root.variables_of_keras = servable.module.variables
    tf.saved_model.save(root, str(tmp_path / "version"), signatures=savedmodel.trace(servable))
    signatures = write(servable, tmp_path / "right")
    with pytest.raises(ProofError) as error:
        prove_fresh(tmp_path / "version", signatures, golden_requests(servable))
    assert "signature 'serving_default', a batch of 1: as a session: FailedPreconditionError" in str(error.value)


def test_other_weights_than_the_live_models_are_named_with_output_and_difference(tmp_path: Path) -> None:
    live, other = zoo.scale(), zoo.scale()
    other.module.factor.assign([2.0, 3.0, 4.001])
    signatures = write(other, tmp_path / "version")
    with pytest.raises(ProofError) as error:
        prove_fresh(tmp_path / "version", signatures, golden_requests(live))
    assert str(error.value).startswith(
        "signature 'serving_default', output 'scaled': for a batch of 1, the version run as a function and "
        "the live model return different values: largest difference 0.000"
    )


def test_another_signature_than_the_declared_one_is_refused(tmp_path: Path) -> None:
    write(zoo.scale(), tmp_path / "version")
    wanted = write(zoo.trained(), tmp_path / "other")
    with pytest.raises(ProofError, match=SHAPES):
        prove_fresh(tmp_path / "version", wanted, golden_requests(zoo.scale()))


def test_a_folder_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    (tmp_path / "version").mkdir()
    process = fresh_process()
    process.load(tmp_path / "version", fresh.WAYS)
    with pytest.raises(ProofError) as error:
        process.signatures()
    assert "a process without the model's code can't load it: " in str(error.value)
    assert "SavedModel file does not exist at" in str(error.value)


def test_a_crash_is_told_with_its_signal_whoever_asks_next(tmp_path: Path) -> None:
    with FreshProcess() as process:
        process._process.kill()
        process._process.wait()
        for _ in range(2):
            process.load(tmp_path / "version", fresh.WAYS)
            with pytest.raises(ProofError, match="a process without the model's code was killed by SIGKILL"):
                process.signatures()


def test_it_ends_when_its_parent_is_gone() -> None:
    command = [sys.executable, "-I", fresh.__file__, str(DESCRIPTORS)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0


def test_leaving_it_leaves_no_process_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with FreshProcess() as process:
        child = psutil.Process(process._process.pid)
        assert child.is_running()
        (Path(child.environ()["TMPDIR"]) / "left").touch()
    assert not child.is_running()
    assert not list(tmp_path.iterdir())


def test_its_messages_are_tensorflow_servings() -> None:
    log, _ = fresh._messages(DESCRIPTORS)
    ours = PredictionLog.DESCRIPTOR
    assert [field.number for field in log.DESCRIPTOR.fields] == [field.number for field in ours.fields]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked how much memory they had, as Linux tells it")
def test_a_large_model_is_in_memory_once_while_it_is_exported_and_published() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.export_cost", "memory", "250"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout)
    assert took["model_mb"] == 250
    # The rest is what TensorFlow works with.
    assert took["exporter_mb"] < 310
    assert took["fresh_process_mb"] < 350
    assert took["together_mb"] < 350
    assert took["publish_mb"] < 40
