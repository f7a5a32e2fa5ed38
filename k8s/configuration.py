"""Configuration files of the servers in a cluster, generated from models.yaml: the files of `k8s/base/config`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tfserving.k8s.hints import recommended
from tfserving.serving.config import (
    MODELS_CONFIG,
    SERVE,
    in_container,
    models_config,
    monitoring_config,
    serve_script,
)
from tfserving.serving.config_messages import text
from tfserving.serving.models_yaml.fleet import STABLE, Fleet, FleetError, canary_name
from tfserving.serving.models_yaml.server import ServerSettings
from tfserving.serving.served import configured


def labelled(fleet: Fleet, names: tuple[str, ...]) -> Fleet:
    """Return `fleet` with the label `stable` on every model; models without one get it on their newest version.

    Raises FleetError for a model without a version, and for one whose canary would have the name of another model.
    """
    for name in names:
        if canary_name(name) in fleet.models:
            raise FleetError(
                f"model {canary_name(name)!r} has the name of the canary of {name!r} on a cluster. Rename the model."
            )
        if STABLE in fleet.models[name].labels:
            continue
        if not fleet.kept(name):
            raise FleetError(
                f"model {name!r} has no version in {fleet.model_folder(name)}. "
                f"Export one with `{recommended(f'export build {name}')}`."
            )
        fleet = fleet.with_labels(name, {STABLE: fleet.kept(name)[-1], **fleet.models[name].labels})
    return fleet


def server_of_pods(fleet: Fleet) -> ServerSettings:
    """The server settings of pods: they drain for `kubernetes.drain_seconds`, and have a GPU by the component `gpu`."""
    found = fleet.server.model_copy(update={"drain_seconds": fleet.kubernetes.drain_seconds})
    if "gpu" in fleet.kubernetes.components:
        # The device plugin chooses which.
        return found.model_copy(update={"gpus": "all"})
    return found.model_copy(update={"gpus": None, "gpu_memory_fraction": None, "gpu_memory_growth": None})


def cluster_models_config(fleet: Fleet, names: tuple[str, ...]) -> Any:
    """Return the ModelServerConfig of pods: that of a local server, with the label `stable` on every model.

    So a newer version isn't served until a rollout moves the label.
    """
    return models_config(labelled(fleet, names), names, in_container())


def set_of_models(names: tuple[str, ...]) -> str:
    """Return a hash of which models pods serve. Rollouts change versions and labels, and not this hash."""
    models = sorted((name, in_container().model(name)) for name in names)
    return hashlib.sha256(json.dumps(models).encode()).hexdigest()[:16]


def files(fleet: Fleet, names: tuple[str, ...]) -> dict[str, str]:
    """Return the text of each file of `k8s/base` by its path below `config`."""
    return {
        f"models/{MODELS_CONFIG}": text(cluster_models_config(fleet, names)),
        "server/monitoring.config": text(monitoring_config()),
        f"server/{SERVE}": serve_script(server_of_pods(fleet), in_container()),
    }


def checked_at_startup(fleet: Fleet, names: tuple[str, ...]) -> str:
    """Return the model whose label `stable` the startup probe requests: one with the most versions under its name.

    TensorFlow Serving opens its ports when one version of each model is loaded, which need not be the stable one.
    """
    found = configured(cluster_models_config(fleet, names))
    return max((one for one in found if not one.is_canary), key=lambda one: len(one.versions)).name
