"""The kind of device that a pod computes on, by its spec: pods of an earlier models.yaml may have another one."""

from __future__ import annotations

import re
from typing import Any

from tfserving.foundation.devices import Device, device_kind
from tfserving.foundation.gpus import TF32_OVERRIDE
from tfserving.foundation.model_server import PROGRAM
from tfserving.k8s.kubectl import Object

# Whole GPUs, shares, and slices: nvidia.com/gpu, nvidia.com/gpu.shared, nvidia.com/mig-1g.10gb.
_GPU = re.compile(r"/(.*gpu|mig-)")
_SERVERS = ("server", "kserve-container")


def pod_device(pod: Object) -> Device:
    """Return the kind of device of a pod's server.

    TensorFlow Serving computes in TF32 unless its environment turns that off. The embedded server needs a flag for it.
    """
    found = [one for one in pod["spec"]["containers"] if one["name"] in _SERVERS]
    server = found[0] if found else pod["spec"]["containers"][0]
    env = {one["name"]: one.get("value") for one in server.get("env") or ()}
    embedded = (server.get("command") or [""])[0] == f"/usr/bin/{PROGRAM}"
    on = not embedded or "--enable_tf32=true" in (server.get("args") or ())
    return device_kind(gpu=bool(gpus(server)), tf32=on and env.get(TF32_OVERRIDE) != "0")


def gpus(container: dict[str, Any]) -> list[str]:
    """Return the names of the GPUs among the limits of a container."""
    limits = (container.get("resources") or {}).get("limits") or {}
    return [name for name, count in limits.items() if _GPU.search(name) and str(count) != "0"]
