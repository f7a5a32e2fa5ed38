"""What a rollout is going to be, checked before anything changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tfserving.k8s.rollout.quality import compare_metrics, require
from tfserving.k8s.rollout.remaining import about, remaining
from tfserving.k8s.rollout.serves import final_labels
from tfserving.k8s.rollout.state import Figure, State, WayName
from tfserving.k8s.rollout.target import RolloutError
from tfserving.serving.models_yaml.fleet import CANARY, STABLE, Fleet, canary_name
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
    for label, version in said.labels.items():
        if label != CANARY and version != old and version > new:
            raise RolloutError(
                f"models.{model}.labels: {label!r} is at version {version}, which requests without a label would get "
                f"instead of {new}; move the label, or remove it, first"
            )
    for version in (old, new):
        try:
            prove(fleet.model_folder(model) / str(version))
        except ProofError as error:
            raise RolloutError(str(error)) from None
    state = State(model, old, new, dict(said.labels), tuple(fleet.kept(model)), (), way, manual=manual)
    after = tuple(fleet.with_labels(model, final_labels(state)).kept(model))
    if new not in after:
        raise RolloutError(f"models.{model}.versions: version {new} is not among those that are served; add it first")
    return replace(state, after=after)


def with_metrics(fleet: Fleet, state: State, say: Callable[[str], None]) -> State:
    """`state` with the metrics of both versions, as their manifests have them, which needs no server.

    Raises GateError when the new version is worse, unless the rollout accepts that.
    """
    folder, found = fleet.model_folder(state.model), list[Figure]()

    def saw(figure: Figure) -> None:
        found.append(figure)
        say(figure.text)

    require(
        compare_metrics(fleet, state.model, folder / str(state.old), folder / str(state.new)),
        saw,
        accept=state.accept_quality,
    )
    return replace(state, figures=(*state.figures, *found))


def described(state: State, settings: Rollout) -> str:
    """The steps, a line each, what a comparison is, and how long it takes."""
    steps = _by_pods(state, settings) if state.way == "pods" else _in_place(state, settings)
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    seconds = remaining(state, settings)
    takes = f"\nAll of it takes {about(seconds)}, if no gate fails, and the time for loading." if seconds else ""
    return f"{numbered}\n\n{_comparison(state, settings)}{takes}"


def _comparison(state: State, settings: Rollout) -> str:
    """What a comparison under load is."""
    said = (
        f"A comparison lasts {settings.window:g} s at least, until it is clear whether version {state.new}\n"
        f"takes {settings.latency:g} times as long as {state.old}, or {200 * settings.error_rate:g} % more of its "
        "requests fail."
    )
    if not settings.probe:
        return f"{said}\nOnly clients send requests meanwhile: `rollout.probe` is 0."
    where = f", and to {settings.address}" if settings.address else ""
    sent = f"the probe sends {settings.probe:g} golden requests a second to each version{where}"
    return f"{said}\nBeside clients, {sent}."


def _own(state: State, settings: Rollout) -> list[str]:
    """What comes before the first request moves."""
    shadow = [f"replay {settings.shadow} to both versions, and compare the responses"] if settings.shadow else []
    commands = [f"run {' '.join(words)}" for words in settings.commands]
    return [*shadow, *commands, *(["wait for `rollout promote`"] if state.manual else [])]


def _by_pods(state: State, settings: Rollout) -> list[str]:
    return [
        f"make as many pods with version {state.new} of {state.model} as there are with {state.old}",
        "send each of them its golden requests, over gRPC and REST, and compare the responses",
        f"compare quality and latency of version {state.new} with those of {state.old}",
        *_own(state, settings),
        *(f"{weight} % of the requests → version {state.new}; comparison" for weight in settings.weights),
        f"bake for {settings.bake:g} s, then send the golden requests again",
        f"pods with version {state.new} in the place of those with {state.old}, proven as the others were",
        "all requests → these; end the others",
    ]


def _in_place(state: State, settings: Rollout) -> list[str]:
    canary = canary_name(state.model)
    return [
        f"load version {state.new} on every server, as {canary}: the clients of {state.model} get {state.old}",
        "send every server its golden requests, over gRPC and REST, and compare the responses",
        f"compare quality and latency of version {state.new} with those of {state.old}",
        *_own(state, settings),
        f"the clients of the first server → version {state.new}; comparison",
        f"the clients of the others → version {state.new}",
        f"bake for {settings.bake:g} s, then send the golden requests again",
        f"unload version {state.old}" + (f", and {canary}" if CANARY not in state.labels else ""),
    ]
