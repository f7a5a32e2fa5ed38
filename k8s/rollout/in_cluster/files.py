"""What the pod of a rollout reads: models.yaml as it is at the start, whose versions it trusts, and which to copy."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tfserving.k8s.configuration import cluster_models_config, labelled
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import RolloutError
from tfserving.k8s.trust_files import CERTIFICATE, KEY, SIGSTORE, TrustFileError, trust_files
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.config_messages import text
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.rollout import Rollout
from tfserving.serving.models_yaml.trust import TrustSettings
from tfserving.serving.yaml_text import as_yaml

# Where the pod has the models, and its files.
MODELS = "/models"
FILES = "/fleet"
MODELS_YAML = "models.yaml"
# Files of the user's machine.
_ELSEWHERE = {"folder", "models", "compose", "rollout", "kubernetes", "sign", "trust"}
_OF_A_MODEL = {"golden", "evaluation", "allow"}


def check(fleet: Fleet, model: str, settings: Rollout) -> None:
    """Raise RolloutError for a gate that needs code or files which the toolkit's image doesn't contain."""
    evaluation = fleet.models[model].evaluation
    own = evaluation.metric if evaluation and evaluation.metric and ":" in evaluation.metric else None
    needed = {
        "rollout.commands": " ".join(settings.commands[0]) if settings.commands else None,
        "rollout.shadow": settings.shadow,
        f"models.{model}.evaluation.file": evaluation and evaluation.file,
        f"models.{model}.evaluation.builder": evaluation and evaluation.builder,
        f"models.{model}.evaluation.metric": own,
    }
    for key, value in needed.items():
        if value is not None:
            raise RolloutError(
                f"{key}: a rollout in the cluster runs in the toolkit's image, which doesn't contain {value}. Remove "
                "the key, or run the rollout from here, without --in-cluster."
            )


def files(fleet: Fleet, served: tuple[str, ...], state: State, settings: Rollout) -> dict[str, str]:
    """Return the files of the pod by name, for a cluster that serves the models `served`.

    By pods, new pods have all models, so the labels of all are fixed. Raises RolloutError when a file of `trust` can't
    be used.
    """
    names = served if state.strategy == "pods" else (state.model,)
    config = cluster_models_config(fleet, names)
    for one in config.model_config_list.config:
        if one.name == state.model:
            one.model_version_policy.specific.versions[:] = sorted({state.old, state.new})
    made = {MODELS_YAML: _models_yaml(labelled(fleet, names), settings), MODELS_CONFIG: text(config)}
    return {**made, **trusted(fleet)}


def trusted(fleet: Fleet) -> dict[str, str]:
    """Return the files of `trust` by name; {} without it. Raises RolloutError."""
    try:
        return trust_files(fleet.trusted) if fleet.trusted else {}
    except TrustFileError as error:
        raise RolloutError(str(error)) from None


def _trust(settings: TrustSettings, names: Collection[str]) -> dict[str, Any]:
    """Return `trust` with the files of the pod."""
    found: dict[str, Any] = settings.model_dump(mode="json", exclude_defaults=True)
    given = {"keys": KEY, "certificates": CERTIFICATE}
    found |= {key: [name for name in names if name.startswith(given[key])] for key in given.keys() & found}
    return found | ({"sigstore_config": SIGSTORE} if SIGSTORE in names else {})


def _models_yaml(fleet: Fleet, settings: Rollout) -> str:
    content: dict[str, Any] = fleet.model_dump(mode="json", exclude_defaults=True, exclude=_ELSEWHERE)
    content["folder"] = MODELS
    content["models"] = {
        name: model.model_dump(mode="json", exclude_defaults=True, exclude=_OF_A_MODEL)
        for name, model in fleet.models.items()
    }
    content["kubernetes"] = fleet.kubernetes.model_dump(mode="json", exclude_defaults=True)
    if fleet.trust:
        content["trust"] = _trust(fleet.trust, trusted(fleet))
    content["rollout"] = settings.model_dump(mode="json", exclude_defaults=True)
    return as_yaml(content)
