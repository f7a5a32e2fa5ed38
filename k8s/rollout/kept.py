"""Read the state of rollouts from ConfigMaps. Each is validated: anybody with access may have changed it."""

from __future__ import annotations

from typing import Any

from tfserving.k8s.hints import recommended
from tfserving.k8s.kubectl import Object
from tfserving.k8s.rollout.state import State, read_state
from tfserving.k8s.rollout.target import RolloutError
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.kept import KeptError, models_config


def kept_state(config_map: Object, model: str | None = None) -> State | None:
    """Return the state of the last rollout in a ConfigMap; None when it has none yet.

    Raises RolloutError when it is invalid, or that of another model than `model`.
    """
    name, text = config_map["metadata"]["name"], _data(config_map).get("state")
    if not text:
        return None
    try:
        state = read_state(text)
    except KeptError as error:
        raise RolloutError(
            f"ConfigMap {name} is not the state of a rollout: {error}. Check what the pods serve with "
            f"`{recommended('k8s status')}`, then discard the state with `kubectl delete configmap {name}`."
        ) from None
    if model is not None and state.model != model:
        raise RolloutError(
            f"ConfigMap {name}: got the state of a rollout of {state.model!r}, expected {model!r}. When that is "
            f"over, discard the state with `kubectl delete configmap {name}`."
        )
    return state


def models_config_of(config_map: Object) -> Any:
    """Return the ModelServerConfig that pods start with. Raises RolloutError when the ConfigMap has none."""
    name = config_map["metadata"]["name"]
    try:
        return models_config(_data(config_map)[MODELS_CONFIG])
    except KeyError:
        reason = "it is missing"
    except KeptError as error:
        reason = str(error)
    raise RolloutError(
        f"ConfigMap {name}, {MODELS_CONFIG}: {reason}. `{recommended('k8s delete')}`, then "
        f"`{recommended('k8s apply')}` creates it again."
    )


def _data(config_map: Object) -> dict[str, str]:
    return dict(config_map.get("data") or {})
