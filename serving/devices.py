"""The kind of device that the servers of a fleet compute on, by models.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfserving.foundation.devices import Device, device_kind

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet

CONTAINERS = ("docker", "compose")
# The engine of pods.
KUBERNETES = "kubernetes"


def fleet_device(fleet: Fleet, engine: str | None) -> Device | None:
    """Return the kind of device of the fleet's servers; None if models.yaml doesn't determine it.

    `engine` is docker, compose, native, embedded or kubernetes; None if it isn't known. A container has the GPUs of
    `server.gpus`, a pod those of its component `gpu`. A process also uses the GPUs that this machine has, unless
    `server.gpus` is set.
    """
    if engine == KUBERNETES:
        gpu = "gpu" in fleet.kubernetes.components
    elif engine in CONTAINERS or fleet.server.gpus:
        gpu = bool(fleet.server.gpus)
    else:
        return None
    return device_kind(gpu=gpu, tf32=fleet.server.tf32)
