"""The versions that a server serves under each name.

TensorFlow Serving sends a request without a version and a label to the newest loaded version of the name. So if a
model has a label `stable`, nothing newer is loaded under the model's own name:

    models.yaml                          as digits                     as digits-canary
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

from tfserving.foundation.command.hints import typed
from tfserving.serving.models_yaml.fleet import CANARY, STABLE, Fleet, canary_name


@dataclass(frozen=True)
class Served:
    """What is served under `name`: versions of `model`, and their labels.

    With `newest` the server also loads a newer version as soon as it finds one. With copies it doesn't: a command
    copies a version for the servers, after checking who signed it.
    """

    name: str
    model: str
    versions: tuple[int, ...]
    labels: Mapping[str, int]
    newest: bool = False

    @property
    def is_canary(self) -> bool:
        """Whether this is the canary of a model."""
        return self.name != self.model


def served(fleet: Fleet, name: str) -> tuple[Served, ...]:
    """Return what servers serve of model `name`, its own name first."""
    model, kept = fleet.models[name], tuple(fleet.kept(name))
    if STABLE not in model.labels:
        # A label needs its version loaded, beside the newest.
        fixed = isinstance(model.versions, tuple) or (model.versions is None and model.labels)
        return (Served(name, name, kept, dict(model.labels), not (fixed or fleet.is_copied)),)
    labels = {label: version for label, version in model.labels.items() if label != CANARY}
    # Pods may have a version that this machine lacks.
    own = Served(name, name, tuple(sorted({*kept, *labels.values()})), labels)
    if CANARY not in model.labels:
        return (own,)
    version = model.labels[CANARY]
    return (own, Served(canary_name(name), name, (version,), {CANARY: version}))


def all_served(fleet: Fleet, names: Iterable[str]) -> tuple[Served, ...]:
    """Return what servers serve of the models `names`, in their order."""
    return tuple(one for name in names for one in served(fleet, name))


def loaded(fleet: Fleet, name: str) -> list[int]:
    """Return the versions of model `name` on disk that servers load, oldest first; twice if under two names."""
    there = set(fleet.versions(name))
    return sorted(version for one in served(fleet, name) for version in one.versions if version in there)


def model_of(fleet: Fleet, name: str) -> str:
    """Return the model that servers serve as `name`, which may be the name of its canary."""
    if name not in fleet.models:
        for model in fleet.models:
            if canary_name(model) == name:
                return model
    return name


def configured(config: Any) -> tuple[Served, ...]:
    """Return what a ModelServerConfig names. `versions` are the specific ones; with `newest` there are none."""
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
    """Return why requests without a version and a label get the version that they get."""
    if one.is_canary:
        return CANARY
    model = fleet.models.get(one.model)
    listed = model is not None and isinstance(model.versions, tuple)
    return STABLE if STABLE in one.labels else "the newest that `versions` lists" if listed else "the newest"


def summary(fleet: Fleet, one: Served, version: int, everything: Iterable[Served]) -> str:
    """Return which version requests without a version and a label get, and why, such as `version 2, stable`.

    `version` is that version, `everything` is what the server serves under all names.
    """
    others = [f"{label} → {number}" for label, number in one.labels.items() if label not in (STABLE, why(fleet, one))]
    if newer := newer_on_disk(fleet, one, version, everything):
        one_newer = f"version {newer[-1]} is on disk"
        where = one_newer if len(newer) == 1 else f"{len(newer)} newer versions, up to {newer[-1]}, are on disk"
        model = fleet.models[one.model]
        listed = isinstance(model.versions, tuple)
        reason = "stable" if STABLE in one.labels else "in `versions`" if listed else "loaded"
        if fleet.trust and not one.newest and reason == "loaded":
            reason = f"admitted: run `{typed('serve reload', fleet=fleet.file)}`"
        others.append(f"{where} but not {reason}")
    return "; ".join([f"version {version}, {why(fleet, one)}", *others])


def newer_on_disk(fleet: Fleet, one: Served, version: int, everything: Iterable[Served]) -> list[int]:
    """Return the versions on disk that are newer than `version`, which clients get, and not served at all."""
    if one.is_canary or one.model not in fleet.models:
        return []
    others = [other for other in everything if other.model == one.model and other.name != one.name]
    elsewhere = {number for other in others for number in other.versions}
    return [number for number in fleet.exported(one.model) if number > version and number not in elsewhere]
