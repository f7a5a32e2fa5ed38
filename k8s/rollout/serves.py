"""The configuration of servers in each phase of a rollout.

Requests without a version and a label get the newest version that is loaded under a name. So the new version is loaded
under the name of the model's canary until the label `stable` moves:

                     NAME                          NAME-canary
    before           old                           the version of label `canary` in models.yaml, if any
    loading          old                           new, and the version of label `canary`
    trial            old                           new
    moved            old and new, stable → new     new
    final            new                           none; new where models.yaml has the label `canary`

A version with a lower number than the old one replaces it at once: requests without a label would otherwise still get
the old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tfserving.clients import Client
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import Serve
from tfserving.serving.engines.readiness import label_version, states_of
from tfserving.serving.models_yaml.fleet import CANARY, canary_name
from tfserving.serving.served import Served


def before(state: State) -> Serve:
    """The configuration before the rollout."""
    canary = state.labels.get(CANARY)
    return _serve(state, state.versions, _labels(state), () if canary is None else (canary,), canary)


def loading(state: State) -> Serve:
    """The new version is loaded as the canary. A canary of models.yaml stays loaded and keeps the label."""
    canary = state.labels.get(CANARY, state.new)
    return _serve(state, state.versions, _labels(state), {canary, state.new}, canary)


def trial(state: State) -> Serve:
    """The new version is the canary."""
    return _serve(state, state.versions, _labels(state), (state.new,), state.new)


def moved(state: State) -> Serve:
    """The new version is stable; the old one stays loaded if its number is lower."""
    versions = (version for version in {*state.versions, *state.after, state.new} if version <= state.new)
    return _serve(state, versions, _moved_labels(state), (state.new,), state.new)


def final(state: State) -> Serve:
    """The configuration after the rollout."""
    canary = (state.new,) if CANARY in state.labels else ()
    return _serve(state, state.after, _moved_labels(state), canary, state.new)


def final_labels(state: State) -> dict[str, int]:
    """Return the labels in models.yaml after the rollout."""
    return {
        label: state.new if version == state.old or label == CANARY else version
        for label, version in state.labels.items()
    }


def now(client: Client, serve: Serve) -> tuple[Served, ...]:
    """Return what a server serves now under the names of the model. Raises ServingError.

    That may differ from its configuration, after a restart or an interrupted change.
    """
    wanted = {one.name: one for one in serve.served}
    found = []
    for name in (serve.model, canary_name(serve.model)):
        labels = dict(wanted[name].labels) if name in wanted else {CANARY: 0}
        versions = [version for version, status in states_of(client, name).items() if status.state == "AVAILABLE"]
        known = {label: version for label in labels if (version := label_version(client, name, label)) is not None}
        if versions:
            found.append(Served(name, serve.model, tuple(sorted(versions)), known))
    return tuple(found)


def _labels(state: State) -> dict[str, int]:
    return {label: version for label, version in state.labels.items() if label != CANARY}


def _moved_labels(state: State) -> dict[str, int]:
    return {label: version for label, version in final_labels(state).items() if label != CANARY}


def _serve(
    state: State, versions: Iterable[int], labels: Mapping[str, int], canary: Iterable[int], named: int | None
) -> Serve:
    own = Served(state.model, state.model, tuple(sorted(versions)), dict(labels))
    second = tuple(sorted(canary))
    if not second or named is None:
        return Serve(state.model, (own,))
    return Serve(state.model, (own, Served(canary_name(state.model), state.model, second, {CANARY: named})))
