"""Rules for GPUs: the image that uses them, and the memory that pods share."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tfserving.foundation.gpus import GROWTH as GROWS
from tfserving.k8s.devices import gpus
from tfserving.k8s.lint.findings import Finding
from tfserving.k8s.lint.manifests import Container, Manifests
from tfserving.serving.docker.image_names import GPU_SUFFIX, is_embedded, tag_and_digest
from tfserving.serving.models_yaml.kubernetes import SHARED, Gpu

FRACTION, GROWTH = "per_process_gpu_memory_fraction", "gpu_memory_growth"
# At least two pods share a GPU.
MOST_SHARED = 0.5
# A file with session settings, which may let the memory of TensorFlow Serving grow.
_PLATFORMS = "platform_config_file"
# The images whose tags say whether they contain CUDA.
_KNOWN = re.compile(r"(^|/)tensorflow/serving[:@]")


def gpu_image(manifests: Manifests) -> Iterator[Finding]:
    """Yield servers with a GPU and an image for CPUs, and servers with an image for GPUs and no GPU."""
    for pods in manifests.pods:
        if not pods.lasting:
            continue
        for container in pods.containers:
            image = str(container.content.get("image", ""))
            tag, _ = tag_and_digest(image)
            if not tag or not (_KNOWN.search(image) or is_embedded(image)):
                continue
            field, found = f"{container.field}.image", gpus(container.content)
            if found and not tag.endswith(GPU_SUFFIX):
                problem = f"got {image!r}, which is for CPUs, and the container has {', '.join(found)}"
                yield Finding(
                    "gpu-image", pods.object, field, problem, f"Use the image whose tag ends with {GPU_SUFFIX}"
                )
            if not found and tag.endswith(GPU_SUFFIX):
                problem = f"got {image!r}, and the container has no GPU: the server runs on the CPU"
                yield Finding(
                    "gpu-image",
                    pods.object,
                    field,
                    problem,
                    f"Add a limit of {Gpu().resource}, or use the image for CPUs",
                )


def gpu_memory(manifests: Manifests) -> Iterator[Finding]:
    """Yield servers that leave no memory to the other pods of their GPU."""
    for pods in manifests.pods:
        for container in pods.containers:
            if not pods.lasting or not any(name.endswith(SHARED) for name in gpus(container.content)):
                continue
            if _grows(container) or _is_part(_flags(container).get(FRACTION)):
                continue
            problem = "the pods share the memory of a GPU, and each may allocate more than half of it"
            remedy = f"Set --{FRACTION} to at most {MOST_SHARED:g}, or the variable {GROWS} to true"
            yield Finding("gpu-memory", pods.object, f"{container.field}.args", problem, remedy)


def _flags(container: Container) -> dict[str, str]:
    words = [*(container.content.get("command") or ()), *(container.content.get("args") or ())]
    pairs = (str(word).lstrip("-").partition("=") for word in words)
    # A flag without a value is true.
    return {name: value if equals else "true" for name, equals, value in pairs}


def _grows(container: Container) -> bool:
    """Return whether the server allocates memory when it is needed. It is the default of the embedded server."""
    flags, env = _flags(container), container.content.get("env") or ()
    by_default = is_embedded(str(container.content.get("image", ""))) and FRACTION not in flags
    return (
        flags.get(GROWTH, str(by_default)).lower() == "true"
        or _PLATFORMS in flags
        or any(one.get("name") == GROWS and str(one.get("value")).lower() == "true" for one in env)
    )


def _is_part(fraction: str | None) -> bool:
    try:
        return fraction is not None and 0 < float(fraction) <= MOST_SHARED
    except ValueError:
        return False
