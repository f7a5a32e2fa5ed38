"""Which versions a server has under which name.

TensorFlow Serving sends a request without a version and without a label to the newest version that it has loaded of
that name. So for a model whose `stable` version models.yaml names, nothing newer is loaded under the model's own name:

    models.yaml                          under digits                  under digits-canary
    labels: {}                           the newest version
    labels: {stable: 2}                  2
    labels: {stable: 2, canary: 3}       2                             3
    labels: {stable: 2, previous: 1}     1 and 2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfserving.serving.models_yaml.fleet import CANARY, STABLE, Fleet, canary_name


@dataclass(frozen=True)
class Served:
    """What is served under `name`: versions of `model`, and what labels mean there.

    `newest` says that the server takes a version that is newer than these as soon as it sees it.
    """

    name: str
    model: str
    versions: tuple[int, ...]
    labels: Mapping[str, int]
    newest: bool = False


def served(fleet: Fleet, name: str) -> tuple[Served, ...]:
    """What servers serve of model `name`, under its own name first."""
    model, kept = fleet.models[name], tuple(fleet.kept(name))
    if STABLE not in model.labels:
        # A label needs its version loaded, beside the newest.
        newest = not (isinstance(model.versions, tuple) or (model.versions is None and model.labels))
        return (Served(name, name, kept, dict(model.labels), newest),)
    labels = {label: version for label, version in model.labels.items() if label != CANARY}
    own = Served(name, name, kept, labels)
    if CANARY not in model.labels:
        return (own,)
    version = model.labels[CANARY]
    return (own, Served(canary_name(name), name, (version,), {CANARY: version}))


def all_served(fleet: Fleet, names: tuple[str, ...]) -> tuple[Served, ...]:
    """What servers serve of the models `names`, in their order."""
    return tuple(one for name in names for one in served(fleet, name))


def model_of(fleet: Fleet, name: str) -> str:
    """The model that servers have under `name`, which may be that of its canary."""
    if name not in fleet.models:
        for model in fleet.models:
            if canary_name(model) == name:
                return model
    return name
