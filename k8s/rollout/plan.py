"""What a rollout is going to be, checked before anything changes."""

from __future__ import annotations

from tfserving.k8s.rollout.state import State, WayName
from tfserving.k8s.rollout.target import RolloutError
from tfserving.serving.models_yaml.fleet import STABLE, Fleet
from tfserving.serving.models_yaml.rollout import Rollout
from tfserving.serving.proven import ProofError, prove


def plan(fleet: Fleet, model: str, new: int | None, *, manual: bool = False, way: WayName = "in-place") -> State:
    """The rollout of `model` to version `new`, the newest when not given, at its beginning.

    Raises RolloutError when the version isn't what its manifest says, or is no change.
    """
    found = fleet.versions(model)
    if not found:
        raise RolloutError(f"model {model!r} has no version in {fleet.model_folder(model)}")
    new = found[-1] if new is None else new
    said = fleet.models[model]
    if new not in found:
        raise RolloutError(f"model {model!r} has no version {new}; its versions: {', '.join(map(str, found))}")
    if STABLE not in said.labels:
        raise RolloutError(
            f"models.{model}.labels: there is no `stable`, so servers take a new version as soon as they see it; "
            f"`tfserving serve labels set {model} stable=VERSION` says which is to serve until it is rolled out"
        )
    old = said.labels[STABLE]
    if old == new:
        raise RolloutError(f"model {model!r} is at version {new} already")
    for version in (old, new):
        try:
            prove(fleet.model_folder(model) / str(version))
        except ProofError as error:
            raise RolloutError(str(error)) from None
    return State(model, old, new, dict(said.labels), tuple(sorted({*said.labels.values()})), way, manual=manual)


def described(state: State, settings: Rollout) -> str:
    """The steps, a line each."""
    gate = (
        f"{settings.window:g} s with at least {settings.samples} requests{_probe(settings, 'and')}: at most "
        f"{settings.latency:g} times the latency, {100 * settings.error_rate:g} % more failures"
    )
    steps = _by_pods(state, settings, gate) if state.way == "pods" else _in_place(state, settings, gate)
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _probe(settings: Rollout, joined: str) -> str:
    """What is sent while a window lasts."""
    if not settings.probe:
        return ""
    where = f" to {settings.address}" if settings.address else ""
    return f" {joined} {settings.probe:g} golden requests a second{where}"


def _own(state: State, settings: Rollout) -> list[str]:
    """What comes before the first request moves."""
    commands = [f"run {' '.join(words)}" for words in settings.commands]
    return [*commands, *(["wait for `rollout promote`"] if state.manual else [])]


def _by_pods(state: State, settings: Rollout, gate: str) -> list[str]:
    return [
        f"make as many pods with version {state.new} of {state.model} as there are with {state.old}",
        "ask each of them its golden requests, over gRPC and REST",
        f"compare the latency of golden requests: at most {settings.latency:g} times",
        *_own(state, settings),
        *(f"{weight} % of the requests → version {state.new}; {gate}" for weight in settings.weights),
        f"bake for {settings.bake:g} s{_probe(settings, 'with')}, then ask the golden requests again",
        f"pods with version {state.new} in the place of those with {state.old}, proven as the others were",
        "all requests → these; end the others",
    ]


def _in_place(state: State, settings: Rollout, gate: str) -> list[str]:
    return [
        f"load version {state.new} of {state.model} beside {state.old} on every server",
        "ask every server its golden requests, over gRPC and REST",
        f"label canary → {state.new}; compare the latency of golden requests: at most {settings.latency:g} times",
        *_own(state, settings),
        f"label stable → {state.new} on the first server; {gate}",
        f"label stable → {state.new} on the others",
        f"bake for {settings.bake:g} s{_probe(settings, 'with')}, then ask the golden requests again",
        f"unload version {state.old}",
    ]
