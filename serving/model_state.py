"""The state of one model on a server, as data and as a line. Reading it needs no models.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tfserving.clients.results import VersionStatus


def model_state(versions: Sequence[VersionStatus], labels: Mapping[str, int]) -> dict[str, Any]:
    """Return the state of one model: its versions, its labels, and whether a version is available."""
    available = any(status.state == "AVAILABLE" for status in versions)
    return {"versions": [asdict(status) for status in versions], "labels": dict(labels), "available": available}


def lines(models: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each model, see `model_state`, and one for each manifest that is known."""
    for name, model in models.items():
        if "error" in model:
            yield f"{name}: {model['error']}"
            continue
        versions = "; ".join(str(VersionStatus(**version)) for version in model["versions"])
        labels = "".join(f", {label} → {version}" for label, version in model["labels"].items())
        yield f"{name}: {versions}{labels}" + (f". Clients get {model['summary']}" if "summary" in model else "")
        for known in model.get("manifests", ()):
            proof = f", signed by {known['signer']}" if known["signer"] else ""
            if known["from"] == "folder":
                proof = ". The server doesn't name it: it is that of the version's folder now"
            yield f"  version {known['version']}: manifest {known['digest']}{proof}"
