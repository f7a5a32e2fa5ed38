"""What the objects of the server are called, and the labels that its pods are known by."""

from __future__ import annotations

NAME = "serving"
MANAGER = "tensorflow-serving-toolkit"
INSTANCE = "app.kubernetes.io/instance"
# Pods are of the Deployment that serves, or of the second one that a rollout makes.
TRACK = "tensorflow-serving-toolkit/track"
STABLE, CANARY = "stable", "canary"
# What all objects have that `apply` makes.
OURS = f"{INSTANCE}={NAME},app.kubernetes.io/managed-by={MANAGER}"
# What a rollout keeps of itself.
ROLLOUT_LABELS = {INSTANCE: NAME, "app.kubernetes.io/component": "rollout"}
ROLLOUTS = ",".join(f"{label}={value}" for label, value in ROLLOUT_LABELS.items())


def config_map(track: str) -> str:
    """The ConfigMap with what pods of a track begin with."""
    return f"{NAME}-models" if track == STABLE else f"{NAME}-{track}-models"


def pods(track: str) -> str:
    """The selector of a track's pods."""
    return f"{INSTANCE}={NAME},{TRACK}={track}"
