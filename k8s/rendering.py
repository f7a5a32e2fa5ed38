"""The manifests of a fleet: `k8s/base`, its components, and what models.yaml says, put together by kustomize.

models.yaml ──► config files, flags, settings ─┐
k8s/base, k8s/components ──────────────────────┴──► a kustomization in a temporary folder ──► kubectl kustomize
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from k8s.configuration import cluster_models_config, files
from k8s.kubectl import Kubectl
from serving.config import MODELS_CONFIG, in_container, server_config
from serving.config_messages import text
from serving.fleet import Fleet, FleetError

HERE = Path(__file__).parent
NAME = "serving"
_SERVER_CONFIG = "/config/server"
# What the toolkit has in models.config of a container, and what isn't polled here (`k8s/base/deployment.yaml`).
_FIXED = {
    "model_config_file": f"/config/models/{MODELS_CONFIG}",
    "model_config_file_poll_wait_seconds": "0",
    "enable_profiler": "false",
}


def render(fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl) -> str:
    """The manifests of the models `names`, as YAML.

    Raises FleetError for what models.yaml can't say here, and KubectlError when kustomize refuses.
    """
    if fleet.server.tls:
        raise FleetError("server.tls: a pod's files are in ConfigMaps, where no key belongs; end TLS before the pods")
    with tempfile.TemporaryDirectory(prefix="kustomize-") as folder:
        _write(Path(folder), fleet, names)
        return kubectl.run("kustomize", folder)


def _write(folder: Path, fleet: Fleet, names: tuple[str, ...]) -> None:
    said = fleet.kubernetes
    shutil.copytree(HERE / "base", folder / "base")
    for component in said.components:
        shutil.copytree(HERE / "components" / component, folder / "components" / component)
    shutil.rmtree(folder / "base/config")
    made = {**files(fleet, names)}
    config = server_config(fleet, names, dataclasses.replace(in_container(), config=_SERVER_CONFIG))
    made.update({f"server/{name}": text for name, text in config.files.items() if f"models/{name}" not in made})
    for name, content in made.items():
        path = folder / "base/config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    base = yaml.safe_load((folder / "base/kustomization.yaml").read_text())
    base["configMapGenerator"][1]["files"] = [f"config/{name}" for name in made if name.startswith("server/")]
    (folder / "base/kustomization.yaml").write_text(yaml.safe_dump(base))
    top: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": said.namespace,
        "resources": ["base"],
        "components": [f"components/{component}" for component in said.components],
        "patches": [
            {"target": {"kind": "Deployment", "name": NAME}, "patch": yaml.safe_dump(_deployment(fleet, config.flags))},
            {
                "target": {"kind": "HorizontalPodAutoscaler"},
                "patch": yaml.safe_dump(
                    [
                        {"op": "replace", "path": "/spec/minReplicas", "value": said.replicas},
                        {"op": "replace", "path": "/spec/maxReplicas", "value": said.max_replicas},
                    ]
                ),
            },
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(top))


def _deployment(fleet: Fleet, flags: tuple[str, ...]) -> list[dict[str, Any]]:
    """What models.yaml changes in the Deployment, as JSON patches."""
    said = fleet.kubernetes
    container = "/spec/template/spec/containers/0"
    values: dict[str, Any] = {
        "/spec/replicas": said.replicas,
        f"{container}/resources/requests": {"cpu": said.cpu, "memory": said.memory},
        f"{container}/resources/limits/memory": said.memory,
        f"{container}/lifecycle/preStop/sleep/seconds": said.drain_seconds,
        "/spec/template/spec/terminationGracePeriodSeconds": said.drain_seconds + 30,
        f"{container}/args": _flags(flags, said.drain_seconds),
    }
    if said.image:
        values[f"{container}/image"] = said.image
    changes = [{"op": "replace", "path": path, "value": value} for path, value in values.items()]
    if "volume" in said.components:
        # The component's volume is the last one of the pod.
        path = "/spec/template/spec/volumes/3/persistentVolumeClaim/claimName"
        changes.append({"op": "replace", "path": path, "value": said.claim})
    if "gpu" in said.components:
        fraction = fleet.server.gpu_memory_fraction or 0.9
        changes.append(
            {"op": "add", "path": f"{container}/args/-", "value": f"--per_process_gpu_memory_fraction={fraction}"}
        )
    return changes


def _flags(flags: tuple[str, ...], drain: int) -> list[str]:
    age = f"grpc.max_connection_age_ms={500 * drain},grpc.max_connection_age_grace_ms={250 * drain}"
    said = {"grpc_channel_arguments": age}
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        said[name] = value
    said.pop("per_process_gpu_memory_fraction", None)
    return [f"--{name}={value}" for name, value in {**said, **_FIXED}.items()]


def served(fleet: Fleet, names: tuple[str, ...]) -> str:
    """The models.config that pods start with."""
    return text(cluster_models_config(fleet, names))
