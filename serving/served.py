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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

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

    @property
    def is_canary(self) -> bool:
        """Whether this is the canary beside the model's own name."""
        return self.name != self.model


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


def all_served(fleet: Fleet, names: Iterable[str]) -> tuple[Served, ...]:
    """What servers serve of the models `names`, in their order."""
    return tuple(one for name in names for one in served(fleet, name))


def loaded(fleet: Fleet, name: str) -> list[int]:
    """The versions of model `name` on disk that servers load, oldest first; twice if under two names."""
    there = set(fleet.versions(name))
    return sorted(version for one in served(fleet, name) for version in one.versions if version in there)


def model_of(fleet: Fleet, name: str) -> str:
    """The model that servers have under `name`, which may be that of its canary."""
    if name not in fleet.models:
        for model in fleet.models:
            if canary_name(model) == name:
                return model
    return name


def configured(config: Any) -> tuple[Served, ...]:
    """What `config`, a ModelServerConfig, names. `versions` are the specific ones; with `newest` there are none."""
    return tuple(
        Served(
            model.name,
            PurePosixPath(model.base_path).name,
            tuple(sorted(model.model_version_policy.specific.versions)),
            dict(model.version_labels),
            not model.model_version_policy.HasField("specific"),
        )
        for model in config.model_config_list.config
    )


def said(fleet: Fleet, one: Served, version: int) -> str:
    """What `one` serves to requests without a label and why: `version 2, stable`."""
    if one.is_canary:
        return f"version {version}, {CANARY}"
    listed = isinstance(fleet.models[one.model].versions, tuple)
    why = STABLE if STABLE in one.labels else "the newest that `versions` lists" if listed else "the newest"
    others = "".join(f"; {label} {number}" for label, number in one.labels.items() if label != STABLE)
    left = not_served(fleet, one, version)
    return f"version {version}, {why}{others}{f'; {left}' if left else ''}"


def not_served(fleet: Fleet, one: Served, version: int) -> str:
    """Which versions on disk are newer than `version`, which `one` serves, and why they aren't served; else nothing."""
    model = fleet.models[one.model]
    canary = model.labels.get(CANARY) if STABLE in one.labels else None
    newer = [number for number in fleet.versions(one.model) if number > version and number != canary]
    if one.is_canary or not newer:
        return ""
    where = f"version {newer[-1]} is on disk"
    if len(newer) > 1:
        where += f", the newest of {len(newer)} that are newer,"
    if STABLE in one.labels:
        return f"{where} and isn't stable"
    if isinstance(model.versions, tuple):
        return f"{where} and isn't in `versions`"
    return f"{where} and isn't loaded"
