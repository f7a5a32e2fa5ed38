"""The process that proves a version: what it can't import, what it answers, and how its failures are told."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from export import fresh, savedmodel
from export.errors import ProofError
from export.golden import golden_requests, write_golden
from export.manifest import ServedSignature
from export.proof import FreshProcess, prove
from export.servable import Servable
from tests.export import zoo


def write(servable: Servable, folder: Path, answers_of: Servable | None = None) -> dict[str, ServedSignature]:
    """Writes `servable` with golden requests, those of `answers_of` when it is given."""
    requests = golden_requests(answers_of or servable)
    signatures = savedmodel.write_savedmodel(servable, savedmodel.trace(servable), folder)
    write_golden(requests, "model", folder)
    return signatures


def test_it_cannot_import_the_models_code_nor_keras_nor_this_toolkit(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("raise AssertionError('imported')")
    code = f"""
import importlib, io, json, runpy, sys
sys.path.append({str(tmp_path)!r})
sys.path.append({str(Path(fresh.__file__).parents[1])!r})
sys.stdin = io.StringIO("")
script = runpy.run_path({fresh.__file__!r})
script["main"]()
(refusal,) = (hook for hook in sys.meta_path if type(hook).__name__ == "Refusal")
refusal.packages.add("theirs")
refused = {{}}
for name in ("theirs", "theirs.layers", "export.models.dense", "clients", "serving", "keras", "keras.layers"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        refused[name] = str(error)
print(json.dumps([refused, "tensorflow" in sys.modules, "keras" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    refused, tensorflow, keras = json.loads(done.stdout.splitlines()[-1])
    assert len(refused) == 7
    assert all("can't be imported here: what is served may not need it" in error for error in refused.values())
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
    signatures = write(servable, tmp_path / "version")
    requests = golden_requests(servable)
    with FreshProcess() as process:
        answers = process.answer(tmp_path / "version", tmp_path, {"zoo"})
    for way in ("function", "session"):
        assert len(answers.outputs[way]) == len(requests) == 8
        for request, outputs in zip(requests, answers.outputs[way], strict=True):
            for name, wanted in request.outputs.items():
                np.testing.assert_array_equal(outputs[name], wanted)
    proof = prove(answers, signatures, requests)
    assert (proof.requests, proof.identical, proof.largest, str(proof)) == (8, True, 0.0, "equal")


def test_a_variable_that_only_functions_find_is_no_proof(tmp_path: Path) -> None:
    # A Keras variable tracked as itself: functions read its value, a session finds it uninitialised.
    servable = zoo.trained()
    requests = golden_requests(servable)
    functions = savedmodel.trace(servable)
    root = tf.Module()
    root.variables_of_keras = servable.module.variables
    tf.saved_model.save(root, str(tmp_path / "version"), signatures=functions)
    write_golden(requests, "model", tmp_path / "version")
    with FreshProcess() as process, pytest.raises(ProofError) as error:
        process.answer(tmp_path / "version", tmp_path, {"zoo"})
    assert "signature 'serving_default', golden request 0, as a session: FailedPreconditionError" in str(error.value)


def test_other_weights_than_the_live_models_are_named_with_output_and_difference(tmp_path: Path) -> None:
    live, other = zoo.scale(), zoo.scale()
    other.module.factor.assign([2.0, 3.0, 4.001])
    signatures = write(other, tmp_path / "version", answers_of=live)
    with FreshProcess() as process:
        answers = process.answer(tmp_path / "version", tmp_path, {"zoo"})
    with pytest.raises(ProofError) as error:
        prove(answers, signatures, golden_requests(live))
    assert str(error.value).startswith(
        "signature 'serving_default', output 'scaled': what was written, run as a function, answers a batch of 1 "
        "otherwise than the live model: largest difference 0.000"
    )


def test_another_signature_than_the_declared_one_is_refused(tmp_path: Path) -> None:
    write(zoo.scale(), tmp_path / "version")
    with FreshProcess() as process:
        answers = process.answer(tmp_path / "version", tmp_path, ())
    wanted = write(zoo.trained(), tmp_path / "other")
    with pytest.raises(ProofError, match="signature 'serving_default' is loaded as"):
        prove(answers, wanted, golden_requests(zoo.scale()))


def test_a_folder_that_cannot_be_loaded_is_told_with_the_last_lines_of_stderr(tmp_path: Path) -> None:
    (tmp_path / "version").mkdir()
    with FreshProcess() as process, pytest.raises(ProofError) as error:
        process.answer(tmp_path / "version", tmp_path, ())
    assert "a process without the model's code failed with exit code 1:" in str(error.value)
    assert "SavedModel file does not exist at" in str(error.value)


def test_a_crash_is_told_with_its_signal(tmp_path: Path) -> None:
    with FreshProcess() as process:
        process._process.kill()
        with pytest.raises(ProofError, match="a process without the model's code was killed by SIGKILL"):
            process.answer(tmp_path / "version", tmp_path, ())


def test_it_ends_when_its_parent_is_gone() -> None:
    done = subprocess.run(
        [sys.executable, "-I", fresh.__file__], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0
