"""kustomize patches of the objects of `k8s/base`."""

from __future__ import annotations

import json
from typing import Any

from tfserving.k8s.names import BASE_NAME

Patch = dict[str, Any]


def changes(kind: str, values: dict[str, Any], op: str = "add") -> Patch:
    """Set values by their paths. For an item of a list, `op` must be `replace`."""
    return operations(kind, [{"op": op, "path": path, "value": value} for path, value in values.items()])


def added(kind: str, path: str, value: Any) -> Patch:
    """Append a value to a list."""
    return operations(kind, [{"op": "add", "path": path, "value": value}])


def operations(kind: str, given: list[dict[str, Any]]) -> Patch:
    """Run operations of JSON Patch on an object."""
    return {"target": {"kind": kind, "name": BASE_NAME}, "patch": json.dumps(given)}


def pod(spec: dict[str, Any]) -> Patch:
    """Merge this into the pods of the Deployment."""
    template = {"spec": {"template": {"spec": spec}}}
    return merged({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": BASE_NAME}, **template})


def merged(content: dict[str, Any]) -> Patch:
    """Merge this into the object that it names."""
    return {"patch": json.dumps(content)}
