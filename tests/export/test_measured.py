"""The sets of tolerances for each kind of device: from a table, and measured where there is a GPU.

There is none here. A process that simulates TF32 stands for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.export import simulated
from tests.export.conftest import export_to
from tests.export.simulated import VARIABLE
from tfserving.export.check import check_files
from tfserving.export.devices import Machine, Measurement
from tfserving.export.errors import ProofError
from tfserving.export.exporter import Exported
from tfserving.export.manifest import read_manifest
from tfserving.export.proof import FreshProcess, prove
from tfserving.export.tolerances import Judge
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.devices import Device
from tfserving.foundation.golden import read_golden

CPU = Tolerance(1e-5, 1e-5)
TF32 = Measurement("gpu-tf32", "NVIDIA H200", {VARIABLE: "tf32"})
WRONG = Measurement("cpu", "x86_64", {VARIABLE: "wrong"})


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A version with one product, exported without a GPU, to be read."""
    return export_to(tmp_path_factory.mktemp("shallow"), simulated.shallow, allow=("file-op",))


@pytest.fixture(scope="module")
def tf32() -> Iterator[FreshProcess]:
    """A process that runs versions as a GPU with TF32 does."""
    with FreshProcess(TF32.environment) as process:
        yield process


def test_without_a_gpu_the_sets_are_those_of_the_table(shallow: Exported) -> None:
    manifest = read_manifest(shallow.path)
    assert manifest.tolerances == {
        "cpu": {"float32": CPU},
        "gpu": {"float32": Tolerance(1e-5, 1e-5, 1e-5)},
        "gpu-tf32": {"float32": Tolerance(1e-3, 1e-5, 5e-3)},
    }
    assert (manifest.golden_device, manifest.measured) == ("cpu", {})


@pytest.mark.parametrize(("device", "passes"), [("cpu", False), ("gpu", False), ("gpu-tf32", True)])
def test_a_server_with_tf32_passes_only_its_own_set(
    device: Device, *, passes: bool, shallow: Exported, tf32: FreshProcess
) -> None:
    manifest = check_files(shallow.path)
    # The largest numbers, which are the last, overflow when they are rounded up.
    requests = read_golden(shallow.path).requests[:-1]
    judge = Judge(manifest.tolerances[device], most=1.0)
    if passes:
        _, proof = prove(tf32, shallow.path, manifest.signatures, requests, judge)
        assert not proof.identical
    else:
        with pytest.raises(ProofError, match=r"return different values: largest difference 0\.0"):
            prove(tf32, shallow.path, manifest.signatures, requests, judge)


def test_tf32_of_a_deep_convolutional_network_has_a_set_only_when_it_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = read_manifest(export_to(tmp_path / "plain", simulated.deep, allow=("file-op",)).path)
    assert plain.tolerances == {"cpu": {"float32": CPU}, "gpu": {"float32": Tolerance(1e-5, 1e-5, 1e-4)}}
    machine = Machine("gpu", "NVIDIA H200", (WRONG, TF32))
    exported = export_to(tmp_path / "measured", simulated.deep, machine=machine, allow=("file-op",))
    manifest = read_manifest(exported.path)
    assert (manifest.golden_device, manifest.measured) == ("NVIDIA H200", {"gpu-tf32": "NVIDIA H200"})
    # The kind of device whose outputs are wrong has no set.
    assert manifest.tolerances.keys() == {"gpu", "gpu-tf32"}
    assert manifest.tolerances["gpu"] == plain.tolerances["gpu"]
    measured = manifest.tolerances["gpu-tf32"]["float32"]
    assert measured.scale >= 5e-3
    told = capsys.readouterr().err
    assert "no tolerances for cpu, so such a server can't be verified: signature 'serving_default', output 's" in told
    assert "on gpu-tf32, signature 'serving_default', output 'label' is another one: " in told
    assert exported.proof.device == "gpu"


def test_rounding_to_ten_bits_is_what_tf32_does() -> None:
    # 1 + 2**-10 has eleven bits with the hidden one; half a step more is rounded up, and less is rounded off.
    step = 2.0**-10
    values = np.array([1 + step, 1 + step / 2, 1 + step / 4, -(1 + step * 3 / 4)], np.float32)
    bits = (values.view(np.int32) + 0x1000) & ~0x1FFF
    np.testing.assert_array_equal(bits.view(np.float32), [1 + step, 1 + step, 1, -(1 + step)])
