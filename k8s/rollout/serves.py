"""What servers are to serve in each phase of a rollout.

Requests without a version and without a label get the newest version that is loaded under a name. So the version that
is rolled out is loaded under the name of the model's canary until `stable` moves:

                     NAME                          NAME-canary
    before           old                           as models.yaml has it: none, or a version of its own
    loading          old                           new, beside the one that models.yaml has
    trial            old                           new
    moved            old and new, stable → new     new
    final            new                           none, or new where models.yaml has one

A version that is older than the one before it takes its place at once: beside it requests without a label would go on
getting the newer one.
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
    """What was served before the rollout."""
    canary = state.labels.get(CANARY)
    return _serve(state, state.versions, _labels(state), () if canary is None else (canary,), canary)


def loading(state: State) -> Serve:
    """The new version is loaded as the canary, beside the one that models.yaml has; that keeps the label."""
    canary = state.labels.get(CANARY, state.new)
    return _serve(state, state.versions, _labels(state), {canary, state.new}, canary)


def trial(state: State) -> Serve:
    """The new version is the canary."""
    return _serve(state, state.versions, _labels(state), (state.new,), state.new)


def moved(state: State) -> Serve:
    """The new version is stable; the old one stays loaded where it is the older one."""
    versions = (version for version in {*state.versions, *state.after, state.new} if version <= state.new)
    return _serve(state, versions, _moved_labels(state), (state.new,), state.new)


def final(state: State) -> Serve:
    """What is served when the rollout is done."""
    canary = (state.new,) if CANARY in state.labels else ()
    return _serve(state, state.after, _moved_labels(state), canary, state.new)


def final_labels(state: State) -> dict[str, int]:
    """The labels that models.yaml has when the rollout is done."""
    return {
        label: state.new if version == state.old or label == CANARY else version
        for label, version in state.labels.items()
    }


def now(client: Client, serve: Serve) -> tuple[Served, ...]:
    """What the server that `client` leads to serves now under the names of the model. Raises ServingError.

    It may be more than its configuration says: a server that was started again, or stopped in the middle of a change.
    """
    wanted = {one.name: one for one in serve.served}
    found = []
    for name in (serve.model, canary_name(serve.model)):
        labels = dict(wanted[name].labels) if name in wanted else {CANARY: 0}
        versions = [version for version, status in states_of(client, name).items() if status.state == "AVAILABLE"]
        meant = {label: version for label in labels if (version := label_version(client, name, label)) is not None}
        if versions:
            found.append(Served(name, serve.model, tuple(sorted(versions)), meant))
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
