"""What a server reports: the state of every version, the labels, and the version that clients get."""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tfserving.clients import Client, connect
from tfserving.clients.errors import ServingError
from tfserving.foundation.manifest import MANIFEST_HEADER
from tfserving.serving.admitted import note
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.engines import EngineError, local
from tfserving.serving.engines.readiness import label_version
from tfserving.serving.model_state import model_state
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import Running, config_folder, read_models_config
from tfserving.serving.served import Served, all_served, configured, newer_on_disk, summary, why

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def states(fleet: Fleet, server: Running) -> tuple[tuple[Served, ...], dict[str, dict[str, Any]]]:
    """Return what `server` is configured to serve, and what it reports of each name."""
    try:
        served = configured(read_models_config(config_folder(fleet, server.engine, server.grpc_port) / MODELS_CONFIG))
    except EngineError:
        # The server may still run without its file.
        served = all_served(fleet, [name for name in server.names if name in fleet.models])
    with connect(server.url, timeout=5) as client:
        return served, {one.name: _model(client, fleet, server, one, served) for one in served}


def _manifest(fleet: Fleet, server: Running, one: Served, version: int) -> dict[str, Any] | None:
    """Return the digest of the manifest of a version that a server has loaded; None when it isn't known.

    `from` is where it is from: the server itself; the copy that only this user can write to, with who signed it; or the
    folder of models.yaml, which may have another version by now.
    """
    known, named = note(fleet, one.model, version), _named_by(server, one.name, version)
    if named:
        signer = known.signer if known and f"sha256:{known.digest}" == named else None
        return {"version": version, "digest": named, "signer": signer, "from": "server"}
    if known is None:
        return None
    place = "copy" if fleet.trust else "folder"
    return {"version": version, "digest": f"sha256:{known.digest}", "signer": known.signer, "from": place}


def _named_by(server: Running, name: str, version: int) -> str | None:
    """Return the digest that a server names itself. TensorFlow Serving names none."""
    connection = http.client.HTTPConnection(local(server.host), server.rest_port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", f"/v1/models/{name}/versions/{version}/metadata")
        found = connection.getresponse().headers.get(MANIFEST_HEADER, "")
        return found if _DIGEST.fullmatch(found) else None
    return None


def _model(client: Client, fleet: Fleet, server: Running, one: Served, served: Sequence[Served]) -> dict[str, Any]:
    """Return what a server has under a name, and what a request without a version and a label gets."""
    try:
        found = client.status(one.name)
        labels = {label: label_version(client, one.name, label) for label in one.labels}
    except ServingError as error:
        return {"available": False, "error": str(error)}
    known = {label: version for label, version in labels.items() if version is not None}
    model = model_state(found, known)
    loaded = [status.version for status in found if status.state == "AVAILABLE"]
    model["manifests"] = [manifest for version in loaded if (manifest := _manifest(fleet, server, one, version))]
    if model["available"]:
        newest = max(status.version for status in found if status.state == "AVAILABLE")
        now = replace(one, labels=known)
        model["clients_get"] = newest
        model["because"] = why(fleet, now)
        model["newer_on_disk"] = newer_on_disk(fleet, now, newest, served)
        model["summary"] = summary(fleet, now, newest, served)
    return model
