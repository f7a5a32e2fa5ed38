"""The release of TensorFlow Serving in an image, by its name and labels."""

from __future__ import annotations

import re
from collections.abc import Mapping

# tensorflow_serving/tools/docker/Dockerfile of https://github.com/tensorflow/serving sets the first to `r2.20` or
# `2.20.0`. The image of the embedded server has the second, the version of its TensorFlow.
LABELS = ("tensorflow_serving_github_branchtag", "tensorflow.version")
EMBEDDED = "serving-embedded"
# Of the tag of an image with CUDA: https://hub.docker.com/r/tensorflow/serving/tags.
GPU_SUFFIX = "-gpu"
_VERSION = r"(\d+\.\d+(?:\.\d+)?(?:-?rc\d+)?)"


def version_in(image: str) -> str | None:
    """Return the version in the tag of an image: `2.22.0-rc0` for `tensorflow/serving:2.22.0-rc0-gpu`."""
    found = re.search(rf"(?:^|/)serving:{_VERSION}", image)
    return found[1] if found else None


def version_of(image: str, labels: Mapping[str, str]) -> str | None:
    """Return the version of TensorFlow Serving in an image, from its labels or its tag; None if neither has it."""
    for label in LABELS:
        if found := re.search(_VERSION, labels.get(label, "")):
            return found[1]
    return version_in(image)


def is_embedded(image: str) -> bool:
    """Return whether an image contains the embedded server: its name is `serving-embedded`, in any registry."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0] == EMBEDDED


def with_gpus(image: str) -> str | None:
    """Return the image to use on GPUs instead of one of TensorFlow Serving, or of the embedded server, for CPUs.

    None if its name doesn't show that it is one for CPUs: another name, no tag, or a tag with `gpu`.
    """
    tag, _ = tag_and_digest(image)
    if not tag or "gpu" in tag or not (is_embedded(image) or re.match(r"(docker\.io/)?tensorflow/serving:", image)):
        return None
    return f"{image.partition('@')[0]}{GPU_SUFFIX}"


def tag_and_digest(image: str) -> tuple[str, str]:
    """Return the tag and the digest in the name of an image; '' for one that it lacks."""
    name, _, digest = image.partition("@")
    return name.rpartition("/")[2].partition(":")[2], digest


def moves(image: str) -> bool:
    """Return whether a name leads to different images over time: it has no digest, and no tag but `latest`."""
    tag, digest = tag_and_digest(image)
    return not digest and tag in ("", "latest")
