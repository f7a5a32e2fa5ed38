"""The manifests of a fleet: `k8s/base`, its components, and what models.yaml says, put together by kustomize.

models.yaml ──► config files, flags, settings ─┐
k8s/base, k8s/components ──────────────────────┴──► kustomizations in a temporary folder ──► kubectl kustomize

    base ◄── fleet: the components on it, then what models.yaml says of them ◄── kserve, which puts another in its place
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tfserving.foundation.temporary import temporary_folder
from tfserving.k8s import patches
from tfserving.k8s.configuration import models_files, server_of_pods
from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.names import NAME
from tfserving.serving.config import MODELS_CONFIG, in_container, server_config
from tfserving.serving.models_yaml.fleet import Fleet, FleetError

HERE = Path(__file__).parent
_SERVER_CONFIG = "/config/server"
# What the toolkit has in models.config of a container, and what isn't polled here (`k8s/base/deployment.yaml`).
_FIXED = {
    "model_config_file": f"/config/models/{MODELS_CONFIG}",
    "model_config_file_poll_wait_seconds": "0",
    "enable_profiler": "false",
    "enable_grpc_healthcheck_service": "true",
}
_AGE = "grpc.max_connection_age_ms"
_KSERVE = "kserve"


def render(fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl, replicas: int | None = None) -> str:
    """The manifests of the models `names`, as YAML; with so many `replicas`, when it isn't for the settings to say.

    Raises FleetError for what models.yaml can't say here, and KubectlError when kustomize refuses.
    """
    if fleet.server.tls:
        raise FleetError("server.tls: a pod's files are in ConfigMaps, where no key belongs; end TLS before the pods")
    if "monitoring" in fleet.kubernetes.components and not fleet.server.monitoring:
        raise FleetError("server.monitoring: component 'monitoring' needs the page that `monitoring: false` turns off")
    with temporary_folder("kustomize's files", "kustomize-") as folder:
        return kubectl.run("kustomize", str(_write(folder, fleet, names, replicas)))


def objects(manifests: str) -> list[Object]:
    """The objects of manifests in YAML."""
    return [one for one in yaml.safe_load_all(manifests) if one]


def _write(folder: Path, fleet: Fleet, names: tuple[str, ...], replicas: int | None) -> Path:
    """Writes the kustomizations; returns the folder of the last one."""
    said = fleet.kubernetes
    shutil.copytree(HERE / "base", folder / "base")
    for component in said.ordered:
        shutil.copytree(HERE / "components" / component, folder / "components" / component)
    flags = _config(folder / "base", fleet, names)
    _kustomization(
        folder / "fleet",
        said.namespace,
        resources=["../base"],
        components=[f"../components/{component}" for component in said.ordered if component != _KSERVE],
        patches=patches.patches(fleet, _flags(fleet, flags), replicas),
    )
    if _KSERVE not in said.ordered:
        return folder / "fleet"
    _also_copied(folder / "components/kserve/pods/kustomization.yaml", said.components)
    _kustomization(
        folder / _KSERVE, said.namespace, resources=["../fleet"], components=["../components/kserve"], patches=[]
    )
    return folder / _KSERVE


def _config(base: Path, fleet: Fleet, names: tuple[str, ...]) -> tuple[str, ...]:
    """Writes the server's files in the place of those of `k8s/base`; returns the server's flags."""
    shutil.rmtree(base / "config")
    models = models_files(fleet, names)
    places = dataclasses.replace(in_container(), config=_SERVER_CONFIG)
    pods = fleet.model_copy(update={"server": server_of_pods(fleet)})
    config = server_config(pods, names, places, embedded=patches.has_embedded(fleet))
    made = {
        **models,
        **{f"server/{name}": text for name, text in config.files.items() if f"models/{name}" not in models},
    }
    for name, content in made.items():
        path = base / "config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    said = yaml.safe_load((base / "kustomization.yaml").read_text())
    said["configMapGenerator"][1]["files"] = [f"config/{name}" for name in made if name.startswith("server/")]
    (base / "kustomization.yaml").write_text(yaml.safe_dump(said))
    return config.flags


def _also_copied(path: Path, components: tuple[str, ...]) -> None:
    """Has KServe's pods what only some components give a Deployment; kustomize refuses to copy what isn't there."""
    said = yaml.safe_load(path.read_text())
    fields: dict[str, tuple[str, ...]] = {"object-store": ("initContainers",), "gpu": ("nodeSelector", "tolerations")}
    for field in (field for component in components for field in fields.get(component, ())):
        source = {"kind": "Deployment", "name": NAME, "fieldPath": f"spec.template.spec.{field}"}
        select, path_there = {"kind": "InferenceService"}, f"spec.predictor.{field}"
        target = {"select": select, "fieldPaths": [path_there], "options": {"create": True}}
        said["replacements"].append({"source": source, "targets": [target]})
    path.write_text(yaml.safe_dump(said))


def _kustomization(folder: Path, namespace: str, **said: list[Any]) -> None:
    folder.mkdir()
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": namespace}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({**head, **said}))


def _flags(fleet: Fleet, flags: tuple[str, ...]) -> list[str]:
    drain = fleet.kubernetes.drain_seconds
    said: dict[str, str] = {"grpc_channel_arguments": ""}
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        said[name] = value
    if patches.has_embedded(fleet) and "enable_reload_config" not in fleet.server.flags:
        # A rollout changes pods one by one by HandleReloadConfigRequest.
        said["enable_reload_config"] = "true"
    # A GPU's memory is said by the component.
    said.pop("per_process_gpu_memory_fraction", None)
    said["grpc_channel_arguments"] = _channel(said["grpc_channel_arguments"], drain)
    return [f"--{name}={value}" for name, value in {**said, **_FIXED}.items()]


def _channel(said: str, drain: int) -> str:
    """Arguments of gRPC: what models.yaml says of them, and how long a connection lives, when that isn't among it."""
    arguments: Mapping[str, str] = dict(one.split("=", 1) for one in said.split(",") if "=" in one)
    age = {_AGE: str(500 * drain), "grpc.max_connection_age_grace_ms": str(250 * drain)}
    return ",".join(f"{name}={value}" for name, value in {**age, **arguments}.items())
