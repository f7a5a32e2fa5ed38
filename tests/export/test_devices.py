"""Golden outputs are computed without TF32, whatever the machine and the builder set."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from tests.export.conftest import ROOT
from tests.export.zoo import Scale, servable
from tests.exporting import fresh_process
from tfserving.export.devices import Machine, measurements, proof_environment, this_machine
from tfserving.export.exporter import Exported
from tfserving.export.servable import Servable
from tfserving.foundation.devices import DEVICES
from tfserving.foundation.gpus import AUTOTUNE, GROWTH, TF32_OVERRIDE, VISIBLE


def test_a_proof_runs_without_tf32_autotuning_and_the_whole_memory() -> None:
    assert proof_environment({"HOME": "/home/me"}) == {
        "HOME": "/home/me",
        "NVIDIA_TF32_OVERRIDE": "0",
        "TF_CUDNN_USE_AUTOTUNE": "0",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }


def test_the_users_own_settings_win_except_for_tf32() -> None:
    own = {TF32_OVERRIDE: "1", AUTOTUNE: "1", GROWTH: "false"}
    assert proof_environment(own) == {**own, TF32_OVERRIDE: "0"}


def test_a_server_is_measured_with_its_autotuning_and_with_each_kind_of_device() -> None:
    found = {one.device: proof_environment({}, one.environment) for one in measurements("NVIDIA H200")}
    assert tuple(found) == DEVICES
    assert found["cpu"][VISIBLE] == "-1"
    assert (found["gpu"][TF32_OVERRIDE], found["gpu"][AUTOTUNE]) == ("0", "1")
    assert (found["gpu-tf32"].get(TF32_OVERRIDE), found["gpu-tf32"][AUTOTUNE]) == (None, "1")


def test_a_machine_without_a_gpu_computes_on_its_processor() -> None:
    assert this_machine() == Machine("cpu", "cpu", ())
    assert fresh_process().gpus() == ()


def test_the_gpus_are_listed_after_a_version_that_can_not_be_loaded(tmp_path: Path) -> None:
    process = fresh_process()
    process.load(tmp_path, ["function", "session"])
    assert process.gpus() == ()


def test_the_exporters_process_is_prepared_before_it_imports_tensorflow() -> None:
    code = f"""
import json, os
from tfserving.export.console import import_tensorflow
import_tensorflow()
import tensorflow as tf
names = {[TF32_OVERRIDE, AUTOTUNE, GROWTH]}
print(json.dumps([[os.environ[name] for name in names], tf.config.experimental.tensor_float_32_execution_enabled()]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["0", "0", "true"], False]


def test_a_builder_that_turns_tf32_on_does_not_change_the_golden_outputs(export_here: Callable[..., Exported]) -> None:
    experimental = tf.config.experimental
    seen: list[bool] = []

    def builder() -> Servable:
        experimental.enable_tensor_float_32_execution(True)
        module = Scale()

        def scaled(rows: Any) -> Any:
            seen.append(experimental.tensor_float_32_execution_enabled())
            return {"scaled": rows * module.factor}

        return servable(module, scaled)

    export_here(builder)
    assert len(seen) >= 5
    assert not any(seen)
