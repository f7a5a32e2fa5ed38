"""What an image's name and its labels say about the TensorFlow Serving inside."""

from __future__ import annotations

import re
from collections.abc import Mapping

# tensorflow_serving/tools/docker/Dockerfile of https://github.com/tensorflow/serving has it as `r2.20` or `2.20.0`;
# the embedded server's image has the TensorFlow that it runs.
LABELS = ("tensorflow_serving_github_branchtag", "tensorflow.version")
EMBEDDED = "serving-embedded"
_VERSION = r"(\d+\.\d+(?:\.\d+)?(?:-?rc\d+)?)"


def version_in(image: str) -> str | None:
    """The version in the tag of a tensorflow/serving image, `2.22.0-rc0` of `tensorflow/serving:2.22.0-rc0-gpu`."""
    found = re.search(rf"(?:^|/)serving:{_VERSION}", image)
    return found[1] if found else None


def version_of(image: str, labels: Mapping[str, str]) -> str | None:
    """The version of the TensorFlow Serving in an image, from its labels or its tag; None when neither says it."""
    for label in LABELS:
        if found := re.search(_VERSION, labels.get(label, "")):
            return found[1]
    return version_in(image)


def is_embedded(image: str) -> bool:
    """Whether an image has the embedded server: it is called `serving-embedded`, in whatever registry."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0] == EMBEDDED
