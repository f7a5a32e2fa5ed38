"""The rule for pods that serve signed versions only: nothing that others can change gets past the signature."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tfserving.k8s.lint.findings import Finding
from tfserving.k8s.lint.manifests import Container, Manifests, Pods
from tfserving.serving.docker.image_names import tag_and_digest

# The program that copies versions, its option, and the annotation of pods whose versions must be signed.
_SYNC, _OPTION, _ANNOTATION = "tfserving.k8s.sync", "--trust", "/trust"
_FINGERPRINT = re.compile("[0-9a-f]{16}")
_MODELS = PurePosixPath("/models")
# Volumes of a pod that others may write to while it runs.
_SHARED = ("persistentVolumeClaim", "hostPath", "nfs", "csi", "ephemeral", "iscsi", "fc")


def trust(manifests: Manifests) -> Iterator[Finding]:
    """Yield what can be changed after it was signed. Manifests in which nobody is trusted have no such finding."""
    if not any(map(_is_annotated, manifests.objects)) and not any(
        _option(container) for pods in manifests.pods for container in pods.containers
    ):
        return
    for pods in manifests.pods:
        for container in pods.containers:
            yield from _container(pods, container)
        for index, volume in enumerate(pods.spec.get("volumes") or ()):
            if "image" in volume:
                field = f"{pods.field}.volumes[{index}].image.reference"
                yield from _image(pods, field, str(volume["image"].get("reference", "")))


def _container(pods: Pods, container: Container) -> Iterator[Finding]:
    yield from _image(pods, f"{container.field}.image", str(container.content.get("image", "")))
    if _SYNC in (container.content.get("command") or ()) and not _option(container):
        problem = "it copies versions that nobody trusted has signed"
        remedy = f"Add {_OPTION}, and the ConfigMap with the keys"
        yield Finding("trust", pods.object, f"{container.field}.args", problem, remedy)
    shared = {one["name"] for one in pods.spec.get("volumes") or () if any(kind in one for kind in _SHARED)}
    for index, mount in enumerate(container.content.get("volumeMounts") or ()):
        path = PurePosixPath(mount["mountPath"])
        if mount["name"] in shared and (path.is_relative_to(_MODELS) or _MODELS.is_relative_to(path)):
            problem = f"others can write to the volume {mount['name']!r} after its versions were checked"
            field = f"{container.field}.volumeMounts[{index}]"
            yield Finding("trust", pods.object, field, problem, "Copy them to an emptyDir: set `trust` in models.yaml")


def _image(pods: Pods, field: str, image: str) -> Iterator[Finding]:
    if not tag_and_digest(image)[1]:
        problem = f"got {image!r}, which who can write to its registry can replace"
        yield Finding("trust", pods.object, field, problem, "Add the digest: NAME:TAG@sha256:DIGEST")


def _option(container: Container) -> bool:
    """Return whether a container copies signed versions only."""
    words = [str(word) for word in (*(container.content.get("command") or ()), *(container.content.get("args") or ()))]
    return _SYNC in words and any(word.partition("=")[0] == _OPTION for word in words)


def _is_annotated(content: Any) -> bool:
    """Return whether an object, or the pods in it, have the annotation."""
    if isinstance(content, list):
        return any(map(_is_annotated, content))
    if not isinstance(content, dict):
        return False
    annotations = content.get("annotations")
    if isinstance(annotations, dict) and any(
        str(key).endswith(_ANNOTATION) and _FINGERPRINT.fullmatch(str(value)) for key, value in annotations.items()
    ):
        return True
    return any(map(_is_annotated, content.values()))
