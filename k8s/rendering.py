"""The manifests of a fleet: kustomize combines `k8s/base`, its components and the settings of models.yaml.

models.yaml ──► config files, flags, settings ─┐
k8s/base, k8s/components ──────────────────────┴──► kustomizations in a temporary folder ──► kubectl kustomize

    base ◄── fleet: components, then patches from models.yaml ◄── kserve, which replaces the Deployment ◄── names
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tfserving.foundation.temporary import temporary_folder
from tfserving.k8s import argo_rollouts, patches, proxy
from tfserving.k8s.configuration import cluster_models_config, server_of_pods
from tfserving.k8s.images import check_digests, has_embedded
from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.lint.gpus import FRACTION, GROWTH, MOST_SHARED
from tfserving.k8s.naming import naming, set_domain
from tfserving.k8s.published import TRUST_MAP
from tfserving.k8s.trust_files import TRUST, TrustFileError, trust_files
from tfserving.serving.config import MODELS_CONFIG, in_container, server_config
from tfserving.serving.config_messages import text
from tfserving.serving.health import HEALTH
from tfserving.serving.models_yaml.fleet import Fleet, FleetError
from tfserving.serving.yaml_text import as_yaml

HERE = Path(__file__).parent
_SERVER_CONFIG = "/config/server"
# Flags of pods that differ from those of a container (`k8s/base/deployment.yaml`).
_FIXED = {
    "model_config_file": f"/config/models/{MODELS_CONFIG}",
    "model_config_file_poll_wait_seconds": "0",
    "enable_profiler": "false",
    "enable_grpc_healthcheck_service": "true",
}
_AGE = "grpc.max_connection_age_ms"
# Of a GPU's memory, where it is one pod's: the rest is for CUDA itself.
_WHOLE_GPU = 0.9
_VOLUME, _KSERVE, ARGO_ROLLOUTS = "volume", "kserve", "argo-rollouts"
# They replace the Deployment, after all others have changed it.
_LAST = (_KSERVE, ARGO_ROLLOUTS)


def render(fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl) -> str:
    """Return the manifests of the models `names`, as YAML.

    Raises FleetError for settings that pods can't have, also for an image by tag with `trust`, and KubectlError when
    kustomize fails.
    """
    if fleet.server.tls:
        raise FleetError(
            "server.tls: pods don't support it, since their files are in ConfigMaps, where no key belongs. "
            "Terminate TLS in front of the pods."
        )
    required = fleet.kubernetes.ready_model
    if required is not None and required not in names:
        raise FleetError(f"kubernetes.ready_model: got {required!r}, expected one of the models {', '.join(names)}")
    if "monitoring" in fleet.kubernetes.components and not fleet.server.monitoring:
        raise FleetError(
            "server.monitoring: the component 'monitoring' needs the metrics page, and `monitoring: false` turns it off"
        )
    if fleet.trusted:
        try:
            trust_files(fleet.trusted)
        except TrustFileError as error:
            raise FleetError(str(error)) from None
    with temporary_folder("kustomize's files", "kustomize-") as folder:
        manifests = kubectl.run("kustomize", str(_write(folder, fleet, names)))
    if fleet.trusted:
        check_digests(objects(manifests))
    return manifests


def objects(manifests: str) -> list[Object]:
    """Return the objects of manifests in YAML."""
    return [one for one in yaml.safe_load_all(manifests) if one]


def _write(folder: Path, fleet: Fleet, names: tuple[str, ...]) -> Path:
    """Write the kustomizations; return the folder of the last one."""
    settings = fleet.kubernetes
    shutil.copytree(HERE / "base", folder / "base")
    for component in settings.ordered:
        shutil.copytree(HERE / "components" / component, folder / "components" / component)
    if fleet.trust and _VOLUME in settings.ordered:
        _copied_from_volume(folder / "components" / _VOLUME)
    set_domain(folder, settings.domain)
    flags = _config(folder / "base", fleet, names)
    if "proxy" in settings.ordered:
        (folder / "components/proxy" / proxy.FILE).write_text(proxy.configuration(settings))
    _kustomization(
        folder / "fleet",
        resources=["../base"],
        components=[f"../components/{component}" for component in settings.ordered if component not in _LAST],
        patches=patches.patches(fleet, names, _flags(fleet, flags)),
    )
    last = "fleet"
    if _KSERVE in settings.ordered:
        _kustomization(
            folder / _KSERVE,
            resources=["../fleet"],
            components=["../components/kserve"],
            patches=patches.of_kserve(fleet),
        )
        last = _KSERVE
    if ARGO_ROLLOUTS in settings.ordered:
        _rolled_out(folder, fleet, names)
        last = ARGO_ROLLOUTS
    _kustomization(folder / "named", resources=[f"../{last}"], namespace=settings.namespace, **naming(fleet))
    return folder / "named"


def _copied_from_volume(component: Path) -> None:
    """Replace the component that mounts a volume in the server by one that copies versions from it.

    Whoever can write to the volume could change a version after it was accepted.
    """
    shutil.copyfile(HERE / "components/object-store/sync.yaml", component / "sync.yaml")
    content = yaml.safe_load((component / "kustomization.yaml").read_text())
    (component / "kustomization.yaml").write_text(json.dumps({**content, "patches": [{"path": "sync.yaml"}]}))


def _config(base: Path, fleet: Fleet, names: tuple[str, ...]) -> tuple[str, ...]:
    """Replace the server's files of `k8s/base`; return the server's flags."""
    shutil.rmtree(base / "config")
    places = dataclasses.replace(in_container(), config=_SERVER_CONFIG)
    pods = fleet.model_copy(update={"server": server_of_pods(fleet)})
    config = server_config(pods, names, places, embedded=has_embedded(fleet))
    made = {f"models/{MODELS_CONFIG}": text(cluster_models_config(fleet, names))}
    if fleet.trusted and {_VOLUME, "object-store"} & set(fleet.kubernetes.components):
        made |= {f"{TRUST}/{name}": content for name, content in trust_files(fleet.trusted).items()}
    # The health check of a container is a script, and that of a pod is the kubelet's.
    made |= {f"server/{name}": content for name, content in config.files.items() if name not in (MODELS_CONFIG, HEALTH)}
    for name, content in made.items():
        path = base / "config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    content = yaml.safe_load((base / "kustomization.yaml").read_text())
    if ARGO_ROLLOUTS in fleet.kubernetes.components:
        # A change of a label is a change of the pods.
        content["configMapGenerator"][0]["options"]["disableNameSuffixHash"] = False
    content["configMapGenerator"][1]["files"] = [f"config/{name}" for name in made if name.startswith("server/")]
    if trusted := [f"config/{name}" for name in made if name.startswith(f"{TRUST}/")]:
        content["configMapGenerator"].append({"name": TRUST_MAP, "files": trusted})
    (base / "kustomization.yaml").write_text(json.dumps(content))
    return config.flags


def _rolled_out(folder: Path, fleet: Fleet, names: tuple[str, ...]) -> None:
    """Write the kustomization that replaces the Deployment with a Rollout."""
    more = argo_rollouts.resources(fleet)
    _kustomization(
        folder / ARGO_ROLLOUTS,
        resources=["../fleet", *(["more.yaml"] if more else [])],
        components=[f"../components/{ARGO_ROLLOUTS}"],
        patches=argo_rollouts.patches(fleet, names),
        replacements=argo_rollouts.replacements(fleet),
    )
    (folder / ARGO_ROLLOUTS / "more.yaml").write_text(as_yaml(*more))


def _kustomization(folder: Path, **content: Any) -> None:
    folder.mkdir()
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    # As JSON: PyYAML writes texts such as `12e4` without quotes, and kustomize reads them as numbers.
    (folder / "kustomization.yaml").write_text(json.dumps({**head, **content}))


def _flags(fleet: Fleet, flags: tuple[str, ...]) -> list[str]:
    drain = fleet.kubernetes.drain_seconds
    values: dict[str, str] = {"grpc_channel_arguments": ""}
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        values[name] = value
    if has_embedded(fleet) and "enable_reload_config" not in fleet.server.flags:
        # A rollout changes pods one by one by HandleReloadConfigRequest.
        values["enable_reload_config"] = "true"
    values |= _memory(fleet)
    values["grpc_channel_arguments"] = _channel(values["grpc_channel_arguments"], drain)
    return [f"--{name}={value}" for name, value in {**values, **_FIXED}.items()]


def _memory(fleet: Fleet) -> dict[str, str]:
    """Return the flag for how pods allocate the GPU's memory, which manifests then show.

    By default the embedded server allocates what it needs, and TensorFlow Serving nearly all. Raises FleetError when
    pods that share a GPU would leave no memory to each other.
    """
    settings, server = fleet.kubernetes, fleet.server
    if "gpu" not in settings.components:
        return {}
    embedded, fraction = has_embedded(fleet), server.gpu_memory_fraction
    growth = server.gpu_memory_growth
    if growth is None:
        growth = embedded and fraction is None
    if settings.gpu.is_shared and not growth and (fraction is None or fraction > MOST_SHARED):
        raise FleetError(
            f"kubernetes.gpu.resource: pods with {settings.gpu.resource} share the memory of a GPU, and each would "
            f"allocate {f'{fraction:g} of it' if fraction else 'nearly all'}. Set server.gpu_memory_fraction to the "
            "share of each pod, such as 0.4, or server.gpu_memory_growth to true"
        )
    if embedded:
        return {GROWTH: str(growth).lower()}
    return {} if growth else {FRACTION: f"{fraction or _WHOLE_GPU}"}


def _channel(given: str, drain: int) -> str:
    """Return gRPC's channel arguments: the maximum age of a connection, then those `given` in models.yaml."""
    arguments: Mapping[str, str] = dict(one.split("=", 1) for one in given.split(",") if "=" in one)
    # Requests in flight get as much time as at the pod's end.
    age = {_AGE: str(500 * drain), "grpc.max_connection_age_grace_ms": str(1000 * drain)}
    return ",".join(f"{name}={value}" for name, value in {**age, **arguments}.items())
