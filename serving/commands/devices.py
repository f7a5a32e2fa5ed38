"""The device of a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfserving.foundation.gpus import Gpu
    from tfserving.serving.engines import Plan
    from tfserving.serving.running import Running
    from tfserving.serving.server_gpus import ServerGpu


def gpus_of(server: Running, gpus: tuple[Gpu, ...]) -> tuple[ServerGpu, ...] | None:
    """Return the GPUs of a server that runs on this machine, which has `gpus`; None if they aren't known."""
    from tfserving.serving.docker import deployment
    from tfserving.serving.server_gpus import process_gpus

    if server.container:
        return deployment.gpus_of(server.container, gpus)
    return process_gpus(server.pid or 0, gpus)


def device_of(plan: Plan, engine: str) -> str | None:
    """Return the device of the server that `engine` runs for `plan`, in words; None on a machine without GPUs."""
    from tfserving.foundation.gpus import all_gpus
    from tfserving.serving.docker import deployment
    from tfserving.serving.running import running
    from tfserving.serving.server_gpus import device_text

    gpus = all_gpus()
    if not gpus:
        return None
    for server in running(plan.fleet, deployment.exists):
        if (server.engine, server.grpc_port) == (engine, plan.grpc_port):
            return device_text(gpus_of(server, gpus), tf32=plan.fleet.server.tf32)
    return None
