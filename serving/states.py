"""What a server reports: the state of every version, the labels, and the version that clients get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tfserving.clients import Client, connect
from tfserving.clients.errors import ServingError
from tfserving.serving.admitted import note
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.engines import EngineError
from tfserving.serving.engines.readiness import label_version
from tfserving.serving.model_state import model_state
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import Running, config_folder, read_models_config
from tfserving.serving.served import Served, all_served, configured, newer_on_disk, summary, why


def states(fleet: Fleet, server: Running) -> tuple[tuple[Served, ...], dict[str, dict[str, Any]]]:
    """Return what `server` is configured to serve, and what it reports of each name."""
    try:
        served = configured(read_models_config(config_folder(fleet, server.engine, server.grpc_port) / MODELS_CONFIG))
    except EngineError:
        # The server may still run without its file.
        served = all_served(fleet, [name for name in server.names if name in fleet.models])
    with connect(server.url, timeout=5) as client:
        return served, {one.name: _model(client, fleet, one, served) for one in served}


def _model(client: Client, fleet: Fleet, one: Served, served: Sequence[Served]) -> dict[str, Any]:
    """Return what a server has under a name, and what a request without a version and a label gets."""
    try:
        found = client.status(one.name)
        labels = {label: label_version(client, one.name, label) for label in one.labels}
    except ServingError as error:
        return {"available": False, "error": str(error)}
    known = {label: version for label, version in labels.items() if version is not None}
    model = model_state(found, known)
    notes = {status.version: note(fleet, one.model, status.version) for status in found if status.state == "AVAILABLE"}
    model["manifests"] = [
        {"version": version, "digest": f"sha256:{kept.digest}", "signer": kept.signer, "copy": fleet.trust is not None}
        for version, kept in notes.items()
        if kept
    ]
    if model["available"]:
        newest = max(status.version for status in found if status.state == "AVAILABLE")
        now = replace(one, labels=known)
        model["clients_get"] = newest
        model["because"] = why(fleet, now)
        model["newer_on_disk"] = newer_on_disk(fleet, now, newest, served)
        model["summary"] = summary(fleet, now, newest, served)
    return model
