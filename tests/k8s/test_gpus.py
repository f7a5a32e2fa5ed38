"""The component `gpu`: whole GPUs, shares and slices, for TensorFlow Serving and for the embedded server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.needed import KUBECTL
from tests.k8s.test_manifests import made, pod, server, static, the, with_component
from tfserving.k8s.kubectl import Object
from tfserving.k8s.lint.rules import lint
from tfserving.serving.models_yaml.fleet import FleetError

TF32_OFF = {"NVIDIA_TF32_OVERRIDE": "0"}

pytestmark = KUBECTL


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container.get("env", [])}


def memory(container: dict[str, Any]) -> list[str]:
    """The flags for the memory of a GPU."""
    return [flag for flag in container["args"] if "gpu_memory" in flag]


def test_a_gpu_is_asked_for_with_its_nodes_image_and_memory(tmp_path: Path) -> None:
    more = "gpu: {count: 2, node_selector: {gpu: a100}, runtime_class: nvidia}"
    objects = with_component(tmp_path, "gpu", "volume", more=more, server="gpu_memory_fraction: 0.5")
    spec, found = pod(objects), server(objects)
    assert found["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64", "gpu": "a100"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["runtimeClassName"] == "nvidia"
    assert found["image"] == "tensorflow/serving:2.21.0-gpu"
    assert memory(found) == ["--per_process_gpu_memory_fraction=0.5"]
    # Nodes seldom have a GPU that is free.
    assert the(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_one_pod_of_a_gpu_gets_nearly_all_its_memory_or_what_it_needs(tmp_path: Path) -> None:
    objects = with_component(tmp_path, "gpu")
    assert memory(server(objects)) == ["--per_process_gpu_memory_fraction=0.9"]
    assert "runtimeClassName" not in pod(objects)
    growing = server(with_component(tmp_path, "gpu", server="gpu_memory_growth: true, gpu_memory_fraction: 0.5"))
    assert environment(growing) == {**TF32_OFF, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    # The most that it allocates.
    assert memory(growing) == ["--per_process_gpu_memory_fraction=0.5"]


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ("", TF32_OFF),
        ("tf32: true", {}),
        ("deterministic: true", {**TF32_OFF, "TF_CUDNN_USE_AUTOTUNE": "0"}),
        ("tf32: true, deterministic: true", {"TF_CUDNN_USE_AUTOTUNE": "0"}),
    ],
)
def test_float32_is_computed_as_models_yaml_says(tmp_path: Path, settings: str, variables: dict[str, str]) -> None:
    assert environment(server(with_component(tmp_path, "gpu", server=settings))) == variables


def test_batches_have_few_sizes_on_a_gpu(tmp_path: Path) -> None:
    def sizes(objects: list[Object]) -> list[str]:
        (config,) = (one for one in objects if "batching_parameters.txt" in one.get("data", {}))
        return re.findall(r"allowed_batch_sizes: (\d+)", config["data"]["batching_parameters.txt"])

    batching = "batching: {max_batch_size: 8}"
    assert sizes(with_component(tmp_path, "gpu", server=batching)) == ["1", "2", "4", "8"]
    # Also for pods on a CPU whose models.yaml has a GPU for containers of this machine.
    assert sizes(made(tmp_path, server=f"{batching}, gpus: all")) == []


def test_pods_without_a_gpu_have_no_setting_of_one(tmp_path: Path) -> None:
    """The GPUs of `server` are those of containers on this machine."""
    gpus = "gpus: all, gpu_memory_fraction: 0.5, deterministic: true"
    for settings in (gpus, f"{gpus}, gpu_memory_growth: true"):
        assert the(made(tmp_path, server=settings), "Deployment") == the(made(tmp_path), "Deployment")


@pytest.mark.parametrize("resource", ["nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared", "example.com/gpu"])
def test_a_slice_or_a_share_replaces_the_whole_gpu(tmp_path: Path, resource: str) -> None:
    settings = f"gpu: {{resource: {resource}}}"
    objects = with_component(tmp_path, "gpu", more=settings, server="gpu_memory_fraction: 0.4")
    limits = server(objects)["resources"]["limits"]
    assert {name: count for name, count in limits.items() if "/" in name} == {resource: "1"}
    assert [str(one) for one in lint(objects)] == []


@pytest.mark.parametrize(
    ("settings", "takes"),
    [("", "nearly all"), ("gpu_memory_fraction: 0.8", "0.8 of it"), ("gpu_memory_growth: false", "nearly all")],
)
def test_pods_that_share_a_gpu_leave_each_other_memory(tmp_path: Path, settings: str, takes: str) -> None:
    shared = "gpu: {resource: nvidia.com/gpu.shared}"
    reason = f"share the memory of a GPU, and each would allocate {takes}. Set server.gpu_memory_fraction"
    with pytest.raises(FleetError, match=re.escape(reason)):
        with_component(tmp_path, "gpu", more=shared, server=settings)


def test_a_shared_gpu_has_room_for_the_pods_that_share_it(tmp_path: Path) -> None:
    shared = "gpu: {resource: nvidia.com/gpu.shared}"
    for enough in ("gpu_memory_fraction: 0.5", "gpu_memory_growth: true"):
        assert lint(with_component(tmp_path, "gpu", more=shared, server=enough)) == []
    # Its default is growth.
    assert lint(with_component(tmp_path, "embedded", "gpu", more=shared)) == []
    with pytest.raises(FleetError, match="share the memory of a GPU"):
        with_component(tmp_path, "embedded", "gpu", more=shared, server="gpu_memory_growth: false")


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        ("resource: gpu", "kubernetes.gpu.resource: got 'gpu', expected the name of a node's resource, such as nvid"),
        ("resource: 'nvidia.com/'", "kubernetes.gpu.resource: got 'nvidia.com/', expected the name of a node's"),
        ("resource: 'Nvidia.com/gpu'", "kubernetes.gpu.resource: "),
        ("resource: 'a/b/c'", "kubernetes.gpu.resource: "),
        ("resource: kubernetes.io/gpu", "got 'kubernetes.io/gpu', whose domain Kubernetes reserves"),
        ("resource: requests.nvidia.com/gpu", "got 'requests.nvidia.com/gpu', whose domain Kubernetes reserves"),
        ("resource: nvidia.com/gpu.shared, count: 2", "count is 2, and nvidia.com/gpu.shared is a share of a GPU"),
        ("resource: nvidia.com/mig-1g.10gb, count: 2", "count is 2, and nvidia.com/mig-1g.10gb is a slice of a GPU"),
        ("runtime_class: NVIDIA", "kubernetes.gpu.runtime_class: got 'NVIDIA', expected a Kubernetes name"),
        ("node_selector: {a b: c}", "kubernetes.gpu.node_selector.a b: the key is 'a b', expected the key of a label"),
    ],
)
def test_a_resource_that_no_node_has_is_refused(tmp_path: Path, gpu: str, reason: str) -> None:
    with pytest.raises(FleetError, match=re.escape(reason)):
        with_component(tmp_path, "gpu", more=f"gpu: {{{gpu}}}")


def test_the_embedded_server_has_an_image_with_cuda_and_flags_of_its_own(tmp_path: Path) -> None:
    objects = with_component(tmp_path, "embedded", "gpu", "volume", more="node_selector: {disk: ssd}")
    found = server(objects)
    assert found["image"] == "serving-embedded:2.21.0-gpu"
    assert found["command"] == ["/usr/bin/tensorflow_model_server"]
    assert found["resources"]["limits"]["nvidia.com/gpu"] == "1"
    # It has flags for what TensorFlow Serving reads from its environment. Its memory grows.
    assert environment(found) == {}
    assert memory(found) == ["--gpu_memory_growth=true"]
    settings = "tf32: true, deterministic: true, gpu_memory_fraction: 0.5"
    chosen = server(with_component(tmp_path, "embedded", "gpu", "volume", server=settings))
    assert environment(chosen) == {}
    assert sorted(memory(chosen)) == ["--gpu_memory_growth=false", "--per_process_gpu_memory_fraction=0.5"]
    assert {"--enable_tf32=true", "--enable_deterministic_gpu=true"} <= set(chosen["args"])
    assert pod(objects)["nodeSelector"] == {
        "kubernetes.io/arch": "amd64",
        "nvidia.com/gpu.present": "true",
        "disk": "ssd",
    }
    assert lint(objects) == []


def test_the_components_can_be_combined_without_rendering() -> None:
    objects = static("overlays/embedded-gpu")
    found, spec = server(objects), pod(objects)
    assert found["image"] == "serving-embedded:2.21.0-gpu"
    assert found["command"] == ["/usr/bin/tensorflow_model_server"]
    assert the(objects, "Deployment")["metadata"]["labels"]["app.kubernetes.io/version"] == "2.21.0-gpu"
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64", "nvidia.com/gpu.present": "true"}
    assert environment(found) == environment(server(static("overlays/gpu"))) == TF32_OFF
    assert lint(objects) == []


@pytest.mark.parametrize("component", ["kserve", "argo-rollouts"])
def test_others_make_the_same_pods(tmp_path: Path, component: str) -> None:
    more = "gpu: {resource: nvidia.com/mig-1g.10gb, runtime_class: nvidia}"
    before = pod(with_component(tmp_path, "gpu", "volume", more=more))
    after = pod(with_component(tmp_path, "gpu", "volume", component, more=more))
    for key in ("nodeSelector", "tolerations", "runtimeClassName"):
        assert after[key] == before[key]
    for key in ("env", "image", "args"):
        assert after["containers"][0][key] == before["containers"][0][key]
    limits = before["containers"][0]["resources"]["limits"]
    assert after["containers"][0]["resources"]["limits"].items() >= limits.items()
