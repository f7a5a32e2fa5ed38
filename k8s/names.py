"""Names and labels of the objects in a cluster."""

from __future__ import annotations

import hashlib
import re

NAME = "serving"
MANAGER = "tensorflow-serving-toolkit"
INSTANCE = "app.kubernetes.io/instance"
# A pod belongs to the Deployment that serves, or to the second one that a rollout creates.
TRACK = "tensorflow-serving-toolkit/track"
STABLE, CANARY = "stable", "canary"
# On pods and namespaces that network policies let in: clients; on pods: rollouts that run in the cluster.
CLIENT, ROLLOUT = "tensorflow-serving-toolkit/client", "tensorflow-serving-toolkit/rollout"
# The labels of all objects that `apply` creates.
OURS = f"{INSTANCE}={NAME},app.kubernetes.io/managed-by={MANAGER}"
# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
_LABEL = re.compile("[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST = 40
# The labels of the objects in which a rollout keeps its state.
ROLLOUT_LABELS = {INSTANCE: NAME, "app.kubernetes.io/component": "rollout"}
ROLLOUTS = ",".join(f"{label}={value}" for label, value in ROLLOUT_LABELS.items())


def config_map(track: str) -> str:
    """The ConfigMap that pods of a track read when they start."""
    return f"{NAME}-models" if track == STABLE else f"{NAME}-{track}-models"


def rollout(model: str) -> str:
    """The name of the ConfigMap with the state of a model's rollouts, and of the Lease of the shell that rolls it out.

    The name is unique. A model whose name can't be part of an object's name gets a dot and a hash, which other names
    don't contain.
    """
    if _LABEL.fullmatch(model) and len(model) <= _LONGEST:
        return f"{NAME}-rollout-{model}"
    near = re.sub("[^a-z0-9]+", "-", model.lower()).strip("-")[:_LONGEST].rstrip("-")
    return f"{NAME}-rollout-{near or 'model'}.{hashlib.sha256(model.encode()).hexdigest()[:16]}"


def pods(track: str) -> str:
    """The selector of a track's pods."""
    return f"{INSTANCE}={NAME},{TRACK}={track}"
