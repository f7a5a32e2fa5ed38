"""The image of the pods' server, and its version."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tfserving.k8s.hints import recommended
from tfserving.k8s.kubectl import Object
from tfserving.k8s.lint.manifests import Manifests
from tfserving.serving.docker.image_names import EMBEDDED, GPU_SUFFIX, is_embedded, moves, tag_and_digest, version_in
from tfserving.serving.models_yaml.fleet import Fleet, FleetError
from tfserving.serving.models_yaml.server import IMAGE

_LONGEST_LABEL = 63
_DIGEST_DIGITS = 12
# By the names of containers.
_SETTINGS = {
    **dict.fromkeys(("server", "kserve-container", "golden"), "kubernetes.image"),
    **dict.fromkeys(("sync-first", "sync", "verify"), "kubernetes.toolkit_image"),
    "proxy": "kubernetes.proxy.image",
}


def server_image(fleet: Fleet) -> str:
    """Return the image of the server. Raises FleetError when models.yaml has none, or one that may change."""
    image = _image(fleet)
    if moves(image):
        raise FleetError(
            f"the image of the pods is {image}, which names another image later. Use a tag of its own, such as `:1`, "
            "or a digest."
        )
    return image


def _image(fleet: Fleet) -> str:
    settings = fleet.kubernetes
    if settings.image:
        return settings.image
    if not {"volume", "object-store"} & set(settings.components):
        raise FleetError(
            "kubernetes.image is missing: without the component `volume` or `object-store` the image contains the "
            f"models. Build one with `{recommended('image --tag REGISTRY/NAME:1')}`, push it, and set "
            "`kubernetes.image` to its name."
        )
    of_gpu = GPU_SUFFIX if "gpu" in settings.components else ""
    if "embedded" in settings.components:
        return f"{EMBEDDED}:{version_in(IMAGE)}{of_gpu}"
    # The image contains no models, so it is the one that Docker runs.
    return fleet.server.image or f"{IMAGE}{of_gpu}"


def check_digests(objects: Sequence[Object]) -> None:
    """Raise FleetError for the images of pods that aren't named by digest, with the setting of each.

    With `trust`: whoever can write to a registry can move a tag to another image.
    """
    found = {
        (_SETTINGS.get(container.name, container.name), str(container.content.get("image", "")))
        for pods in Manifests(tuple(objects)).pods
        for container in pods.containers
    }
    check_pinned(found)


def check_pinned(images: Iterable[tuple[str, str]]) -> None:
    """Raise FleetError when one of the images is not named by digest. Each has its setting before it."""
    if moved := sorted({f"{key} is {image}" for key, image in images if not tag_and_digest(image)[1]}):
        raise FleetError(
            f"trust: {', '.join(moved)}; expected a digest, since who can write to a registry can move a tag to "
            "another image. Write NAME:TAG@sha256:DIGEST. `docker buildx imagetools inspect NAME:TAG` prints it."
        )


def has_embedded(fleet: Fleet) -> bool:
    """Return whether pods run the embedded server."""
    return "embedded" in fleet.kubernetes.components or is_embedded(fleet.kubernetes.image or fleet.server.image or "")


def version(image: str) -> str:
    """Return the tag of an image, or the beginning of its digest, as the value of a label."""
    tag, digest = tag_and_digest(image)
    found = tag or digest.rpartition(":")[2][:_DIGEST_DIGITS]
    # https://github.com/distribution/reference: a tag has up to 128 characters, also '_' at its ends.
    return re.sub("^[-_.]+", "", found)[:_LONGEST_LABEL].rstrip("-_.")
