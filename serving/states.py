"""What a server has now, as it reports it: the state of every version, labels, and what clients get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tfserving.clients import Client, connect
from tfserving.clients.errors import ServingError
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.engines import EngineError
from tfserving.serving.engines.readiness import label_version
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import Running, config_folder, read_models_config
from tfserving.serving.served import Served, all_served, configured, newer_on_disk, said, why


def states(fleet: Fleet, server: Running) -> tuple[tuple[Served, ...], dict[str, dict[str, Any]]]:
    """What `server` is to serve by the configuration that it reads, and what it reports of each name."""
    try:
        served = configured(read_models_config(config_folder(fleet, server.engine, server.grpc_port) / MODELS_CONFIG))
    except EngineError:
        # What it serves can be looked at all the same.
        served = all_served(fleet, [name for name in server.names if name in fleet.models])
    with connect(server.url, timeout=5) as client:
        return served, {one.name: _model(client, fleet, one, served) for one in served}


def lines(models: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line for each of the models that a server reports, see `states`."""
    for name, model in models.items():
        reported = model.get("error") or "; ".join(model["versions"].values())
        yield f"{name}: {reported}" + (f". Clients get {model['summary']}" if "summary" in model else "")


def _model(client: Client, fleet: Fleet, one: Served, served: Sequence[Served]) -> dict[str, Any]:
    """What a server has under a name: states, labels, and what clients get that give neither version nor label."""
    try:
        found = client.status(one.name)
        labels = {label: label_version(client, one.name, label) for label in one.labels}
    except ServingError as error:
        return {"available": False, "error": str(error)}
    versions = {status.version: str(status) for status in found}
    available = [status.version for status in found if status.state == "AVAILABLE"]
    model: dict[str, Any] = {"versions": versions, "labels": labels, "available": bool(available)}
    if available:
        now = replace(one, labels={label: number for label, number in labels.items() if number is not None})
        model["clients_get"] = max(available)
        model["because"] = why(fleet, now)
        model["newer_on_disk"] = newer_on_disk(fleet, now, max(available), served)
        model["summary"] = said(fleet, now, max(available), served)
    return model
