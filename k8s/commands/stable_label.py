"""The label `stable` of a model that has none when its rollout starts: the version that clients get now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfserving.k8s.hints import recommended

if TYPE_CHECKING:
    from tfserving.k8s.commands.place import Place
    from tfserving.serving.models_yaml.fleet import Fleet


def with_stable(fleet: Fleet, model: str, place: Place) -> Fleet:
    """Return `fleet` with the label `stable` of `model` on the version that clients get now. Nothing is changed.

    Raises RolloutError when no server serves the model, or servers serve different versions.
    """
    from tfserving.serving.models_yaml.fleet import STABLE

    version = _on_cluster(fleet, model, place) if place.cluster else _on_this_machine(fleet, model)
    return fleet.with_labels(model, {STABLE: version, **fleet.models[model].labels})


def set_stable(fleet: Fleet, model: str, place: Place, wait: float) -> None:
    """Write the labels of `model` to models.yaml, and send them to the local servers. Raises CommandError."""
    from tfserving.serving.commands.applying import apply
    from tfserving.serving.commands.options import changing_fleet
    from tfserving.serving.models_yaml.file import check_writable, write_labels

    labels = dict(fleet.models[model].labels)
    with changing_fleet(fleet.file, wait):
        check_writable(fleet.file)
        # Pods always have the label.
        if not place.cluster:
            apply(fleet, (model,), wait)
        write_labels(fleet.file, model, labels)


def check_same_labels(fleet: Fleet, model: str, place: Place) -> None:
    """Raise RolloutError when the cluster has other labels of a model than models.yaml, where a rollout would begin."""
    from tfserving.k8s import deployment
    from tfserving.k8s.names import Names
    from tfserving.k8s.rollout.target import RolloutError

    found = deployment.labels(Names.of(fleet), place.kubectl(fleet)).get(model)
    wanted = dict(fleet.models[model].labels)
    if found is not None and found != wanted:
        there = [f"{label}={version}" for label, version in sorted(found.items())]
        here = [f"{label}={version}" for label, version in sorted(wanted.items())]
        raise RolloutError(
            f"labels of {model}: the cluster has {', '.join(there)}, models.yaml has {', '.join(here)}. Write those of "
            f"the cluster to models.yaml, with `{recommended(' '.join(['labels set', model, *there]))}`, then roll out."
        )


def _on_cluster(fleet: Fleet, model: str, place: Place) -> int:
    from tfserving.k8s import deployment
    from tfserving.k8s.names import Names
    from tfserving.k8s.rollout.target import RolloutError
    from tfserving.serving.models_yaml.fleet import STABLE

    labels = deployment.labels(Names.of(fleet), place.kubectl(fleet))
    if model not in labels:
        raise RolloutError(f"the cluster does not serve {model!r}. Start it there with `{recommended('k8s apply')}`.")
    return labels[model][STABLE]


def _on_this_machine(fleet: Fleet, model: str) -> int:
    from tfserving.clients import connect
    from tfserving.k8s.rollout.local import LocalTarget
    from tfserving.k8s.rollout.target import RolloutError, url
    from tfserving.serving.docker import deployment

    found: dict[str, int] = {}
    for instance in LocalTarget(fleet, model, deployment.exists).instances():
        with connect(url(instance), timeout=5) as client:
            found[instance.name] = int(client.metadata(model).version)
    versions = set(found.values())
    if len(versions) > 1:
        shown = ", ".join(f"{name}: version {version}" for name, version in found.items())
        raise RolloutError(
            f"{model} has no label `stable`, and its servers serve different versions ({shown}). "
            f"Set the label with `{recommended(f'labels set {model} stable=VERSION')}`."
        )
    return versions.pop()
