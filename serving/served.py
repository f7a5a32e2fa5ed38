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
    # Pods may have a version that this machine hasn't.
    own = Served(name, name, tuple(sorted({*kept, *labels.values()})), labels)
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


def why(fleet: Fleet, one: Served) -> str:
    """Why clients that give neither version nor label get the version that they get under a name."""
    if one.is_canary:
        return CANARY
    model = fleet.models.get(one.model)
    listed = model is not None and isinstance(model.versions, tuple)
    return STABLE if STABLE in one.labels else "the newest that `versions` lists" if listed else "the newest"


def said(fleet: Fleet, one: Served, version: int, everything: Iterable[Served]) -> str:
    """What clients that give neither version nor label get under a name, and why: `version 2, stable`.

    `version` is what they get, `everything` what the server serves under all names.
    """
    others = [f"{label} → {number}" for label, number in one.labels.items() if label not in (STABLE, why(fleet, one))]
    if newer := newer_on_disk(fleet, one, version, everything):
        where = f"version {newer[-1]}{f', the newest of {len(newer)},' if len(newer) > 1 else ''} is on disk"
        model = fleet.models[one.model]
        listed = isinstance(model.versions, tuple)
        reason = "stable" if STABLE in one.labels else "in `versions`" if listed else "loaded"
        others.append(f"{where} and isn't {reason}")
    return "; ".join([f"version {version}, {why(fleet, one)}", *others])


def newer_on_disk(fleet: Fleet, one: Served, version: int, everything: Iterable[Served]) -> list[int]:
    """The versions on disk that are newer than `version`, what clients get under a name, and aren't served at all."""
    if one.is_canary or one.model not in fleet.models:
        return []
    others = [other for other in everything if other.model == one.model and other.name != one.name]
    elsewhere = {number for other in others for number in other.versions}
    return [number for number in fleet.versions(one.model) if number > version and number not in elsewhere]
