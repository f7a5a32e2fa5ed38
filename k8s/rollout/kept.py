"""What rollouts keep in a cluster, read back: a ConfigMap that somebody else has written is never believed."""

from __future__ import annotations

from typing import Any

from tfserving.k8s.kubectl import Object
from tfserving.k8s.rollout.state import State, read_state
from tfserving.k8s.rollout.target import RolloutError
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.kept import KeptError, models_config


def kept_state(config_map: Object, model: str | None = None) -> State | None:
    """The state of the last rollout in a ConfigMap; None when it has none yet.

    Raises RolloutError when it is none, or that of another model than `model`.
    """
    name, said = config_map["metadata"]["name"], _data(config_map).get("state")
    if not said:
        return None
    try:
        state = read_state(said)
    except KeptError as error:
        raise RolloutError(
            f"ConfigMap {name} is not the state of a rollout: {error}; look at what pods serve (`tfserving k8s "
            f"status`), then `kubectl delete configmap {name}` forgets the rollout"
        ) from None
    if model is not None and state.model != model:
        raise RolloutError(
            f"ConfigMap {name} has the state of a rollout of {state.model!r}, not of {model!r}; once that is over, "
            f"`kubectl delete configmap {name}` forgets it"
        )
    return state


def models_config_of(config_map: Object) -> Any:
    """The ModelServerConfig that pods start with. Raises RolloutError when the ConfigMap has none."""
    name = config_map["metadata"]["name"]
    try:
        return models_config(_data(config_map)[MODELS_CONFIG])
    except KeyError:
        reason = "it isn't there"
    except KeptError as error:
        reason = str(error)
    raise RolloutError(f"ConfigMap {name}, {MODELS_CONFIG}: {reason}; `tfserving k8s delete` and `apply` make it anew")


def _data(config_map: Object) -> dict[str, str]:
    return dict(config_map.get("data") or {})
