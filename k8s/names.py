"""What the objects of the server are called, and the labels that its pods are known by."""

from __future__ import annotations

import hashlib
import re

NAME = "serving"
MANAGER = "tensorflow-serving-toolkit"
INSTANCE = "app.kubernetes.io/instance"
# Pods are of the Deployment that serves, or of the second one that a rollout makes.
TRACK = "tensorflow-serving-toolkit/track"
STABLE, CANARY = "stable", "canary"
# What all objects have that `apply` makes.
OURS = f"{INSTANCE}={NAME},app.kubernetes.io/managed-by={MANAGER}"
# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
_LABEL = re.compile("[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST = 40
# What a rollout keeps of itself.
ROLLOUT_LABELS = {INSTANCE: NAME, "app.kubernetes.io/component": "rollout"}
ROLLOUTS = ",".join(f"{label}={value}" for label, value in ROLLOUT_LABELS.items())


def config_map(track: str) -> str:
    """The ConfigMap with what pods of a track begin with."""
    return f"{NAME}-models" if track == STABLE else f"{NAME}-{track}-models"


def rollout(model: str) -> str:
    """The ConfigMap with the state of a model's rollouts, and the Lease of whoever rolls it out.

    No other model has the same: a model whose name can't be part of an object's has a hash behind a dot, which the
    others don't have.
    """
    if _LABEL.fullmatch(model) and len(model) <= _LONGEST:
        return f"{NAME}-rollout-{model}"
    near = re.sub("[^a-z0-9]+", "-", model.lower()).strip("-")[:_LONGEST].rstrip("-")
    return f"{NAME}-rollout-{near or 'model'}.{hashlib.sha256(model.encode()).hexdigest()[:16]}"


def pods(track: str) -> str:
    """The selector of a track's pods."""
    return f"{INSTANCE}={NAME},{TRACK}={track}"
