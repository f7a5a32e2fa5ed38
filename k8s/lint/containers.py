"""Rules for containers: images, resources, probes, files and secrets."""

from __future__ import annotations

from collections.abc import Iterator

from tfserving.k8s.lint.findings import Finding
from tfserving.k8s.lint.manifests import Container, Manifests, Pods
from tfserving.serving.docker.image_names import tag_and_digest


def _all(manifests: Manifests) -> Iterator[tuple[Pods, Container]]:
    for pods in manifests.pods:
        for container in pods.containers:
            yield pods, container


def image_tag(manifests: Manifests) -> Iterator[Finding]:
    """Yield images that are another one tomorrow."""
    for pods, container in _all(manifests):
        image = str(container.content.get("image", ""))
        tag, digest = tag_and_digest(image)
        if digest or (tag and not tag.startswith("latest")):
            continue
        problem = f"got {image!r}, which is another image after the next push"
        yield Finding("image-tag", pods.object, f"{container.field}.image", problem, "Name a version, or a digest")


def resources(manifests: Manifests) -> Iterator[Finding]:
    """Yield containers that may take what others need, and that the scheduler can't place."""
    for pods, container in _all(manifests):
        found = container.content.get("resources") or {}
        requests, limits = found.get("requests") or {}, found.get("limits") or {}
        for kind, given, names in (
            ("requests", {**limits, **requests}, ("cpu", "memory", "ephemeral-storage")),
            ("limits", limits, ("memory", "ephemeral-storage")),
        ):
            if missing := [name for name in names if name not in given]:
                field = f"{container.field}.resources.{kind}"
                yield Finding("resources", pods.object, field, f"no {' and no '.join(missing)}", "Set it")


def probes(manifests: Manifests) -> Iterator[Finding]:
    """Yield servers that get requests before they can serve, or that nobody restarts."""
    for pods, container in _all(manifests):
        if container.once or not pods.lasting:
            continue
        wanted = ["livenessProbe", *(["readinessProbe"] if container.content.get("ports") else [])]
        for probe in wanted:
            if not container.content.get(probe):
                field = f"{container.field}.{probe}"
                yield Finding("probes", pods.object, field, "the container has none", "Add one")


def read_only_root(manifests: Manifests) -> Iterator[Finding]:
    """Yield containers whose files can be changed."""
    for pods, container in _all(manifests):
        if (container.content.get("securityContext") or {}).get("readOnlyRootFilesystem") is not True:
            field = f"{container.field}.securityContext.readOnlyRootFilesystem"
            remedy = "Set it to true, and mount an emptyDir where the container writes"
            yield Finding("read-only-root", pods.object, field, "a process can change the image's files", remedy)


def secret_env(manifests: Manifests) -> Iterator[Finding]:
    """Yield secrets in environment variables, which every child process gets and crash reports show."""
    remedy = "Mount the Secret as files"
    for pods, container in _all(manifests):
        for index, one in enumerate(container.content.get("env") or ()):
            if "secretKeyRef" in (one.get("valueFrom") or {}):
                field = f"{container.field}.env[{index}]"
                yield Finding("secret-env", pods.object, field, "a secret is in an environment variable", remedy)
        for index, one in enumerate(container.content.get("envFrom") or ()):
            if "secretRef" in one:
                field = f"{container.field}.envFrom[{index}]"
                yield Finding("secret-env", pods.object, field, "a Secret is in environment variables", remedy)


def process_namespace(manifests: Manifests) -> Iterator[Finding]:
    """Yield pods whose containers can read each other's memory and files, /proc/PID/root."""
    for pods in manifests.pods:
        if pods.spec.get("shareProcessNamespace") and len(pods.containers) > 1:
            problem = "containers of the same user can read each other's files and secrets"
            field = f"{pods.field}.shareProcessNamespace"
            yield Finding("process-namespace", pods.object, field, problem, "Remove the field")
