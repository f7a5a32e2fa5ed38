"""The labels with a meaning of their own, and the name under which a server has a version that isn't stable."""

from __future__ import annotations

# `stable`: the version that clients get. `canary`: the version for clients that request it.
STABLE, CANARY = "stable", "canary"


def canary_name(model: str) -> str:
    """The name under which servers have the canary of `model`, whose own name has nothing newer than `stable`."""
    return f"{model}-{CANARY}"
