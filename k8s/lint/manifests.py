"""The manifests that are checked, and the pods in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tfserving.k8s.kubectl import Object

# Kinds whose pods run until they are replaced.
LASTING = ("DaemonSet", "Deployment", "InferenceService", "ReplicaSet", "Rollout", "StatefulSet")


def named(one: Object) -> str:
    """Return what findings call an object."""
    return f"{one.get('kind', 'object')} {one.get('metadata', {}).get('name', 'without a name')}"


@dataclass(frozen=True)
class Container:
    """A container of a pod. `once` is an init container that ends before the others start."""

    content: dict[str, Any]
    field: str
    once: bool

    @property
    def name(self) -> str:
        """The name in the pod."""
        return str(self.content.get("name", ""))


@dataclass(frozen=True)
class Pods:
    """The pods that an object makes: their labels, and their spec, which is at `field`."""

    owner: Object
    labels: Mapping[str, str]
    spec: dict[str, Any]
    field: str

    @property
    def object(self) -> str:
        """What findings call the object."""
        return named(self.owner)

    @property
    def lasting(self) -> bool:
        """Whether the pods run until they are replaced, and not until their work is done."""
        return self.owner["kind"] in LASTING and "metrics" not in self.field

    @cached_property
    def containers(self) -> list[Container]:
        """All containers."""
        return [
            Container(one, f"{self.field}.{kind}[{index}]", kind == "initContainers" and not _is_sidecar(one))
            for kind in ("initContainers", "containers")
            for index, one in enumerate(self.spec.get(kind) or ())
        ]

    def selected_by(self, selector: Mapping[str, Any] | None) -> bool:
        """Return whether a label selector selects the pods."""
        return matches(selector or {}, self.labels)


def _is_sidecar(container: Mapping[str, Any]) -> bool:
    return container.get("restartPolicy") == "Always"


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a label selector with `matchLabels` and `matchExpressions` selects these labels."""
    for one in selector.get("matchExpressions") or ():
        value, values = labels.get(one["key"]), one.get("values") or ()
        holds = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds.get(one["operator"]):
            return False
    return (selector.get("matchLabels") or {}).items() <= labels.items()


@dataclass(frozen=True)
class Manifests:
    """Objects as they are sent to a cluster."""

    objects: tuple[Object, ...]

    def of(self, *kinds: str) -> list[Object]:
        """Return the objects of these kinds."""
        return [one for one in self.objects if one.get("kind") in kinds]

    def has(self, kind: str, name: str) -> bool:
        """Return whether there is such an object."""
        return any(one["metadata"].get("name") == name for one in self.of(kind))

    @cached_property
    def pods(self) -> list[Pods]:
        """The pods of all objects."""
        return [pods for one in self.objects for pods in _pods(one, one, "", {})]

    def selected(self, selector: Mapping[str, Any] | None) -> list[Pods]:
        """Return the pods that a label selector selects."""
        return [pods for pods in self.pods if pods.selected_by(selector)]


def _pods(owner: Object, content: Any, field: str, labels: Mapping[str, str]) -> Iterator[Pods]:
    """Yield the pods below a field. Their labels are beside the spec, in `metadata`; KServe's are in the spec."""
    if isinstance(content, list):
        for index, one in enumerate(content):
            yield from _pods(owner, one, f"{field}[{index}]", labels)
    elif isinstance(content, dict):
        metadata = content.get("metadata")
        here = (metadata.get("labels") or {}) if isinstance(metadata, dict) else labels
        if isinstance(content.get("containers"), list):
            own = content.get("labels") if owner.get("kind") == "InferenceService" else None
            yield Pods(owner, own or labels, content, field)
            return
        for key, value in content.items():
            yield from _pods(owner, value, f"{field}.{key}" if field else key, here)
