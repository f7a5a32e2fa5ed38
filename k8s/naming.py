"""What the last kustomization of a fleet adds: the prefix of names, and labels.

`k8s/base` and its components have the names and labels of a fleet without settings. kustomize changes the names, where
objects name each other, too (`references.yaml` of the components). The fields of selectors are listed here, since
kustomize's own list includes the peers of a NetworkPolicy, which are pods of others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfserving.k8s.images import server_image, version
from tfserving.k8s.names import APP, BASE_DOMAIN, Names
from tfserving.serving.models_yaml.fleet import Fleet

_SPREAD = "topologySpreadConstraints/labelSelector/matchLabels"
_SELECTORS = {
    "Deployment": ("spec/selector/matchLabels", "spec/template/metadata/labels", f"spec/template/spec/{_SPREAD}"),
    "InferenceService": ("spec/predictor/labels", f"spec/predictor/{_SPREAD}"),
    "Rollout": ("spec/selector/matchLabels", "spec/template/metadata/labels", f"spec/template/spec/{_SPREAD}"),
    "AnalysisTemplate": ("spec/metrics/provider/job/spec/template/metadata/labels",),
    "Service": ("spec/selector",),
    "PodDisruptionBudget": ("spec/selector/matchLabels",),
    "NetworkPolicy": ("spec/podSelector/matchLabels",),
    "ServiceMonitor": ("spec/selector/matchLabels",),
}
_PODS = {
    "Deployment": ("spec/template/metadata/labels",),
    "InferenceService": ("spec/predictor/labels",),
    "Rollout": ("spec/template/metadata/labels",),
}


def naming(fleet: Fleet) -> dict[str, Any]:
    """Return the keys of the kustomization. Raises FleetError when the image isn't known."""
    more = {f"{APP}/version": version(server_image(fleet)), **fleet.kubernetes.labels}
    return {
        "namePrefix": fleet.kubernetes.name_prefix,
        "labels": [
            {"pairs": Names.of(fleet).instance, "fields": _fields(_SELECTORS)},
            {"pairs": more, "fields": _fields(_PODS)},
        ],
    }


def set_domain(folder: Path, domain: str) -> None:
    """Replace the domain of the toolkit's own labels in copies of `k8s/base` and its components."""
    if domain != BASE_DOMAIN:
        for path in folder.rglob("*.yaml"):
            path.write_text(path.read_text().replace(f"{BASE_DOMAIN}/", f"{domain}/"))


def _fields(paths: Mapping[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    return [{"kind": kind, "path": path, "create": False} for kind, some in paths.items() for path in some]
