"""The settings of a server's container: hardening, limits, labels, and mounts of the models and configuration."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tfserving.serving import threads
from tfserving.serving.config import MODELS_CONFIG, ServerConfig, entry_point, in_container
from tfserving.serving.docker.image_names import is_embedded
from tfserving.serving.engines import Plan
from tfserving.serving.gpu_environment import gpu_environment
from tfserving.serving.health import HEALTH
from tfserving.serving.models_yaml.server import ServerSettings
from tfserving.serving.running import fleet_id

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.images import Image
    from docker.types import DeviceRequest

PREFIX = "tensorflow-serving-toolkit"
# What the NVIDIA Container Toolkit gives a container: CUDA, and `nvidia-smi`. An image may lack this variable.
_CAPABILITIES = {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
# The container of root runs as this user. Other users' containers run as themselves, so that they read the same files.
NOBODY = 10001
Role = Literal["up", "run", "compose"]
_SECOND = 1_000_000_000


def name_of(plan: Plan, role: Role) -> str:
    """Return the container's name: the fleet's, and the port for `run`, of which there may be several."""
    return f"serving-{fleet_id(plan.fleet)}" + (f"-{plan.grpc_port}" if role == "run" else "")


def find(client: DockerClient, plan_id: str, role: Role) -> list[Container]:
    """Return the containers of the fleet `plan_id`, running or not."""
    labels = [f"{PREFIX}.fleet={plan_id}", f"{PREFIX}.role={role}"]
    found: list[Container] = client.containers.list(all=True, filters={"label": labels})
    return found


def fingerprint(plan: Plan, config: ServerConfig, image: Image) -> str:
    """Return a hash of all settings that need a new container, without those that can be reloaded."""
    files = {name: text for name, text in config.files.items() if name not in (MODELS_CONFIG, HEALTH)}
    server = plan.fleet.server.model_dump(mode="json")
    parts = [
        image.id,
        _command(config),
        files,
        server,
        plan.host,
        plan.grpc_port,
        plan.rest_port,
        str(plan.fleet.folder),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _command(config: ServerConfig) -> list[str]:
    """Return the server's flags."""
    return [*config.flags, "--enable_profiler=false"]


def user() -> str:
    """Return the user and group of the container."""
    uid, gid = os.getuid(), os.getgid()
    return f"{uid}:{gid}" if uid else f"{NOBODY}:{NOBODY}"


def ports_of(container: Container) -> frozenset[int]:
    """Return the ports of this machine that a container uses."""
    bound: dict[str, Any] = container.attrs["HostConfig"]["PortBindings"] or {}
    return frozenset(int(binding["HostPort"]) for bindings in bound.values() for binding in bindings)


def gpu_requests(gpus: str | int | tuple[str, ...] | None) -> list[DeviceRequest]:
    """Return the device requests of `docker run --gpus`; none for None."""
    from docker.types import DeviceRequest

    if gpus is None:
        return []
    if isinstance(gpus, tuple):
        return [DeviceRequest(device_ids=list(gpus), capabilities=[["gpu"]])]
    return [DeviceRequest(count=gpus if isinstance(gpus, int) else -1, capabilities=[["gpu"]])]


def environment(server: ServerSettings) -> dict[str, str]:
    """Return the variables of the container. Docker itself sets which GPUs it has."""
    made = gpu_environment(server, embedded=is_embedded(server.image_name))
    return {**made, **_CAPABILITIES} if server.gpus else made


def arguments(plan: Plan, config: ServerConfig, role: Role, wait: float, folder: Path) -> dict[str, Any]:
    """Return the arguments of `docker run`, as the Docker SDK names them; `folder` has the configuration's files.

    In the first `wait` seconds, while models load, failed health checks don't count. The image's own entry point is not
    used, because it is a shell that doesn't forward signals (https://github.com/tensorflow/serving/issues/1853). The
    script that starts TensorFlow Serving is process 1; the embedded server has an init process as its parent.
    """
    from docker.types import Healthcheck, LogConfig, Mount

    server, inside = plan.fleet.server, in_container()
    embedded = is_embedded(server.image_name)
    return {
        "image": server.image_name,
        "entrypoint": [*entry_point(inside, embedded=embedded)],
        "command": _command(config),
        "environment": environment(server),
        "detach": True,
        "init": embedded or None,
        "user": user(),
        "read_only": True,
        "tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=64m"},  # noqa: S108 - the container's own
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "mem_limit": server.memory,
        # No swap: too little memory is an error, not a slow server.
        "memswap_limit": server.memory,
        "nano_cpus": round(server.cpus * 1e9) if server.cpus else None,
        "pids_limit": server.pids or threads.pids(plan.fleet, plan.names),
        "restart_policy": {"Name": "no" if role == "run" else server.restart},
        "device_requests": gpu_requests(server.gpus),
        "mounts": [
            # The folder of all models, so that an added model needs no new container.
            Mount(inside.models, str(plan.fleet.folder.resolve()), type="bind", read_only=True),
            Mount(inside.config, str(folder), type="bind", read_only=True),
        ],
        "ports": {
            f"{inside.grpc_port}/tcp": (plan.host, plan.grpc_port),
            f"{inside.rest_port}/tcp": (plan.host, plan.rest_port),
        },
        "healthcheck": Healthcheck(
            test=["CMD", "bash", f"{inside.config}/{HEALTH}"],
            interval=2 * _SECOND,
            timeout=10 * _SECOND,
            retries=3,
            start_period=round(wait) * _SECOND,
        ),
        "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
        "labels": {
            PREFIX: "server",
            f"{PREFIX}.fleet": fleet_id(plan.fleet),
            f"{PREFIX}.file": str(plan.fleet.file),
            f"{PREFIX}.image": server.image_name,
            f"{PREFIX}.role": role,
        },
    }
