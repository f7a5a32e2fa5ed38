"""What servers are to serve in each phase of a rollout, and by which steps they come to it.

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
from dataclasses import replace

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


def steps(client: Client, serve: Serve) -> list[Serve]:
    """How the server that `client` leads to comes to `serve`, of which no request fails.

    TensorFlow Serving moves labels before it loads anything, and a label in use moves to what is loaded only. A request
    by label that comes in between has found its version, and must find it loaded. So what a label moves to is loaded
    first, then it moves, then what it meant is unloaded.
    """
    load, label = [], []
    for one in serve.served:
        now = {name: found for name in one.labels if (found := label_version(client, one.name, name)) is not None}
        moving = any(one.labels[name] != version for name, version in now.items())
        both = replace(one, versions=tuple(sorted({*one.versions, *now.values()})))
        label.append(both if moving else one)
        load.append(replace(both, labels={**one.labels, **now}) if moving else one)
    stages = [Serve(serve.model, tuple(load)), Serve(serve.model, tuple(label)), serve]
    if all(_loaded(client, one) for one in load):
        del stages[0]
    return [step for step, following in zip(stages, [*stages[1:], None], strict=True) if step != following]


def _loaded(client: Client, one: Served) -> bool:
    states = states_of(client, one.name)
    return all(version in states and states[version].state == "AVAILABLE" for version in one.versions)


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
