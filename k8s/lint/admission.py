"""What the API server of a cluster refuses: fields that it doesn't know, and pods that its policies forbid.

Nothing is created. A pod is tried by itself, since the API server checks the policies of pods only for pods.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tfserving.k8s.kubectl import Kubectl, KubectlError, Object, SetupError, UnreachableError
from tfserving.k8s.lint.findings import Finding
from tfserving.k8s.lint.manifests import Manifests, Pods, named

_APPLY = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename=-")
# The template has passed the strict validation before; KServe's pods have more fields than pods.
_CREATE = ("create", "--dry-run=server", "--validate=false", "--filename=-")
# What kubectl puts around the reason.
_AROUND = re.compile(
    r"^kubectl \w+: (error: )?(Error from server( \(\w+\))?: )?(error (when )?\w+ \"STDIN\": )?"
    r"(error validating data: )?|; if you choose to ignore these errors, .*$"
)
_REMEDY = "Change the manifest, or the policy of the cluster"


def admission(manifests: Manifests, kubectl: Kubectl) -> Iterator[Finding]:
    """Yield what the cluster refuses. Raises SetupError and UnreachableError."""
    if _refused(kubectl, _APPLY, *manifests.objects):
        # One by one, so that each finding names its object.
        for one in manifests.objects:
            if reason := _refused(kubectl, _APPLY, one):
                yield Finding("admission", named(one), "", reason, _REMEDY)
    for pods in manifests.pods:
        if pods.owner["kind"] != "Pod" and (reason := _refused(kubectl, _CREATE, _pod(pods))):
            yield Finding("admission", pods.object, pods.field, reason, _REMEDY)


def _refused(kubectl: Kubectl, words: tuple[str, ...], *objects: Object) -> str | None:
    """Return why the cluster refuses objects."""
    try:
        kubectl.run(*words, input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    except (SetupError, UnreachableError):
        raise
    except KubectlError as error:
        return _AROUND.sub("", str(error)).rstrip(".")
    return None


def _pod(pods: Pods) -> dict[str, Any]:
    """Return one of the pods, with the account that each namespace has."""
    spec = {key: value for key, value in pods.spec.items() if key not in ("serviceAccountName", "serviceAccount")}
    metadata = {"generateName": "lint-", "labels": dict(pods.labels)}
    if namespace := pods.owner["metadata"].get("namespace"):
        metadata["namespace"] = namespace
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
