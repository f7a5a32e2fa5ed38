"""What the servers of a cluster are told, made from models.yaml: the files of `k8s/base/config`."""

from __future__ import annotations

from typing import Any

from tfserving.serving.config import (
    MODELS_CONFIG,
    SERVE,
    in_container,
    models_config,
    monitoring_config,
    serve_script,
)
from tfserving.serving.config_messages import text
from tfserving.serving.health import HEALTH, health_script
from tfserving.serving.models_yaml.fleet import STABLE, Fleet, FleetError, canary_name
from tfserving.serving.models_yaml.server import ServerSettings


def labelled(fleet: Fleet, names: tuple[str, ...]) -> Fleet:
    """`fleet` with the label `stable` on every model: where models.yaml says none, on the newest version.

    Raises FleetError for a model that has no version, or whose canary would have another model's name.
    """
    for name in names:
        if canary_name(name) in fleet.models:
            raise FleetError(
                f"model {canary_name(name)!r} has the name that pods give the canary of {name!r}; rename the model"
            )
        if STABLE in fleet.models[name].labels:
            continue
        if not fleet.kept(name):
            raise FleetError(f"model {name!r} has no version in {fleet.model_folder(name)}; `make export` makes one")
        fleet = fleet.with_labels(name, {STABLE: fleet.kept(name)[-1], **fleet.models[name].labels})
    return fleet


def server_of_pods(fleet: Fleet) -> ServerSettings:
    """`server:` as pods have it, which drain for as long as `kubernetes:` says."""
    return fleet.server.model_copy(update={"drain_seconds": fleet.kubernetes.drain_seconds})


def cluster_models_config(fleet: Fleet, names: tuple[str, ...]) -> Any:
    """ModelServerConfig: as servers of this machine have it, every model with a label `stable`.

    So a newer version isn't served until a rollout moves that.
    """
    return models_config(labelled(fleet, names), names, in_container())


def files(fleet: Fleet, names: tuple[str, ...]) -> dict[str, str]:
    """The text of each file of `k8s/base` by its path below `config`."""
    return {
        **models_files(fleet, names),
        "server/monitoring.config": text(monitoring_config()),
        f"server/{SERVE}": serve_script(server_of_pods(fleet), in_container()),
    }


def models_files(fleet: Fleet, names: tuple[str, ...]) -> dict[str, str]:
    """Those of them that say which models there are."""
    stable = fleet
    for name in names:
        # Pods start by `stable` alone: other labels come and go with rollouts.
        stable = stable.with_labels(name, {STABLE: 1})
    health = health_script(stable, names, in_container().grpc_port, newest=False)
    return {
        f"models/{MODELS_CONFIG}": text(cluster_models_config(fleet, names)),
        f"models/{HEALTH}": health,
    }
