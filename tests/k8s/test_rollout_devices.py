"""Rollouts on GPUs: the device of each server, and the tolerances that its outputs are compared by."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.needed import KUBECTL
from tests.k8s.reached import Server
from tests.k8s.test_argo_manifests import job
from tests.k8s.test_manifests import pod, with_component
from tests.serving.fleets import fleet
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.devices import Device
from tfserving.foundation.manifest import ManifestError
from tfserving.k8s.devices import pod_device
from tfserving.k8s.rollout.in_place import InPlace
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import Instance, RolloutError
from tfserving.k8s.rollout.tolerances import check, wider
from tfserving.serving.models_yaml.fleet import Fleet

CPU = {"float32": {"absolute": 1e-5, "relative": 1e-5, "scale": 0}}
GPU = {"float32": {"absolute": 1e-6, "relative": 1e-4, "scale": 1e-5}, "float16": CPU["float32"]}


@pytest.mark.parametrize(
    ("components", "settings", "device"),
    [
        ((), "", "cpu"),
        ((), "tf32: true", "cpu"),
        (("gpu",), "", "gpu"),
        (("gpu",), "tf32: true", "gpu-tf32"),
        (("embedded", "gpu"), "", "gpu"),
        (("embedded", "gpu"), "tf32: true", "gpu-tf32"),
        (("gpu", "kserve"), "", "gpu"),
    ],
)
@KUBECTL
def test_a_pods_spec_has_its_device(components: tuple[str, ...], settings: str, device: Device, tmp_path: Path) -> None:
    assert pod_device({"spec": pod(with_component(tmp_path, *components, server=settings))}) == device


@pytest.mark.parametrize(
    "limit", ["nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-1g.10gb", "a.example/vgpu"]
)
def test_pods_of_others_and_of_before_compute_in_tf32(limit: str) -> None:
    """TensorFlow's default, where nothing turns it off."""

    def found(count: str, **more: Any) -> Device:
        server = {"name": "server", "resources": {"limits": {"memory": "1Gi", limit: count}}, **more}
        return pod_device({"spec": {"containers": [{"name": "proxy"}, server]}})

    assert (found("1"), found("0")) == ("gpu-tf32", "cpu")
    assert found("1", env=[{"name": "NVIDIA_TF32_OVERRIDE", "value": "0"}]) == "gpu"


def write(folder: Path, *versions: Mapping[str, Any]) -> Fleet:
    """A fleet whose versions have these tolerances."""
    read = fleet(folder)
    for number, tolerances in enumerate(versions, 1):
        path = read.model_folder("digits") / str(number) / "assets.extra/manifest.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"tolerances": tolerances}))
    return read


@pytest.mark.parametrize(
    ("device", "remedy"),
    [
        ("gpu", "Export it again, with `"),
        ("gpu-tf32", "Set `server.tf32: false`, or export it on a GPU, which measures them, with `"),
    ],
)
def test_a_version_without_tolerances_for_the_servers_is_not_rolled_out(
    device: Device, remedy: str, tmp_path: Path
) -> None:
    read = write(tmp_path, {"cpu": CPU}, {"cpu": CPU, device: GPU})

    class Servers:
        def instances(self) -> list[Instance]:
            return [Server("one", "", "", "cpu"), Server("two", "", "", device)]

    def checked(old: int, new: int) -> None:
        strategy = InPlace(read, 1, print, Servers())  # type: ignore[arg-type]
        strategy.check(State("digits", old, new, {"stable": old}, (old,), (new,)))

    reason = (
        f"digits version 1 has no tolerances for {device}, the device of the servers. It has some for cpu. {remedy}"
    )
    with pytest.raises(RolloutError, match=re.escape(reason)):
        checked(2, 1)
    checked(1, 2)


def test_a_device_that_is_not_known_is_no_reason(tmp_path: Path) -> None:
    read = write(tmp_path, {"cpu": CPU})
    check(read, "digits", 1, [None, "cpu"])
    (read.model_folder("digits") / "1/assets.extra/manifest.json").write_text("[]")
    with pytest.raises(RolloutError, match="got no JSON object"):
        check(read, "digits", 1, [None])


def test_versions_on_two_devices_are_compared_by_the_wider_tolerances(tmp_path: Path) -> None:
    read = write(tmp_path, {"cpu": CPU, "gpu": GPU}, {"cpu": CPU, "gpu": GPU, "gpu-tf32": GPU})
    assert wider(read, "digits", [(1, "cpu"), (2, "cpu")]) == {"float32": Tolerance(1e-5, 1e-5, 0)}
    both = {"float32": Tolerance(1e-5, 1e-4, 1e-5), "float16": Tolerance(1e-5, 1e-5, 0)}
    assert wider(read, "digits", [(1, "cpu"), (2, "gpu")]) == both
    assert wider(read, "digits", [(1, "gpu-tf32"), (2, "cpu")]) == {"float32": Tolerance(1e-5, 1e-5, 0)}
    with pytest.raises(ManifestError):
        wider(read, "digits", [(3, "cpu")])


@pytest.mark.parametrize(
    ("components", "settings", "words"),
    [
        ((), "", []),
        (("gpu",), "", ["--device", "gpu"]),
        (("gpu",), "tf32: true", ["--device", "gpu-tf32"]),
        # It names its device.
        (("gpu", "embedded"), "", []),
    ],
)
@KUBECTL
def test_the_job_of_argo_verifies_by_the_tolerances_of_its_pods(
    components: tuple[str, ...], settings: str, words: list[str], tmp_path: Path
) -> None:
    made = job(with_component(tmp_path, "argo-rollouts", "volume", *components, server=settings))
    assert made["containers"][0]["args"][3:] == words
