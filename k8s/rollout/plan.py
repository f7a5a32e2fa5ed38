"""The plan of a rollout, checked before anything changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tfserving.foundation.trust import accept
from tfserving.foundation.version_files import VersionError
from tfserving.k8s.hints import recommended
from tfserving.k8s.rollout.quality import compare_metrics, require
from tfserving.k8s.rollout.remaining import about, remaining
from tfserving.k8s.rollout.serves import final_labels
from tfserving.k8s.rollout.state import Figure, State, StrategyName
from tfserving.k8s.rollout.target import RolloutError
from tfserving.serving.admitted import admitted
from tfserving.serving.models_yaml.fleet import CANARY, STABLE, Fleet, canary_name
from tfserving.serving.models_yaml.rollout import Rollout


class StableError(RolloutError):
    """The version is stable already."""


def plan(
    fleet: Fleet, model: str, new: int | None, *, manual: bool = False, strategy: StrategyName = "in-place"
) -> State:
    """Return the first state of a rollout of `model` to version `new` (default: the newest).

    `judged` judges the files. Raises RolloutError when the model has no label `stable`, and StableError when the
    version is stable already.
    """
    found = fleet.versions(model)
    if not found:
        raise RolloutError(
            f"model {model!r} has no version in {fleet.model_folder(model)}. "
            f"Export one with `{recommended(f'export build {model}')}`."
        )
    labels = fleet.models[model].labels
    if STABLE not in labels:
        raise RolloutError(
            f"{model} has no label `stable`. Set it with `{recommended(f'labels set {model} stable=VERSION')}`."
        )
    old, newest = labels[STABLE], found[-1]
    if new is not None and new not in found:
        raise RolloutError(f"model {model!r} has no version {new}. It has {', '.join(map(str, found))}.")
    new = newest if new is None else new
    if old == new:
        newer = (
            f"Roll out version {newest} with `{recommended(f'rollout start {model}')}`."
            if newest > old
            else f"Export one with `{recommended(f'export build {model}')}`."
        )
        there = "" if newest > old else " and there is no newer version"
        raise StableError(f"{model}: version {old} is already stable{there}. {newer}")
    for label, version in labels.items():
        if label != CANARY and version != old and version > new:
            raise RolloutError(
                f"models.{model}.labels: {label!r} is on version {version}, which requests without a label would get "
                f"instead of version {new}. Remove the label first, with "
                f"`{recommended(f'labels remove {model} {label}')}`."
            )
    state = State(model, old, new, dict(labels), tuple(fleet.kept(model)), (), strategy, manual=manual)
    after = tuple(fleet.with_labels(model, final_labels(state)).kept(model))
    if new not in after:
        raise RolloutError(f"models.{model}.versions does not contain version {new}. Add it to that list first.")
    return replace(state, after=after)


def judged(
    fleet: Fleet, state: State, report: Callable[[str], None], *, copy: bool = True, back: bool = False
) -> Fleet:
    """Return the fleet whose versions a rollout reads, after judging them: with `trust` these are copies.

    What is written to the folder of models.yaml after this doesn't change the rollout. Without `copy` the versions are
    judged where they are, as in a pod that has copies already. To go `back` the new version isn't needed. Raises
    RolloutError when a version isn't accepted, and EngineError.
    """
    needed = {state.old} if back else {state.old, state.new}
    if fleet.trust and copy:
        # Pods may have a version with a label that this machine lacks.
        there = {*fleet.exported(state.model)} & {*state.labels.values(), *state.versions, *state.after}
        more = there - {state.new} if back else there
        return fleet.reading(admitted(fleet, {state.model: needed | more}, report).folder)
    for version in () if back else sorted(needed):
        try:
            accept(fleet.model_folder(state.model) / str(version), state.model, version, fleet.trusted)
        except VersionError as error:
            raise RolloutError(str(error)) from None
    return fleet


def with_metrics(fleet: Fleet, state: State, log: Callable[[str], None]) -> State:
    """Return `state` with the metrics of both manifests, compared. No server is needed.

    Raises GateError when the new version is worse, unless the rollout accepts that.
    """
    folder, found = fleet.model_folder(state.model), list[Figure]()

    def saw(figure: Figure) -> None:
        found.append(figure)
        log(figure.text)

    require(
        compare_metrics(fleet, state.model, folder / str(state.old), folder / str(state.new)),
        saw,
        accept=state.accept_quality,
    )
    return replace(state, figures=(*state.figures, *found))


def described(state: State, settings: Rollout) -> str:
    """Return the steps, one on each line, what a comparison is, and how long the rollout takes."""
    steps = _by_pods(state, settings) if state.strategy == "pods" else _in_place(state, settings)
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    seconds = remaining(state, settings)
    takes = f"\nThe rollout takes {about(seconds)} plus the time to load, if no gate fails." if seconds else ""
    return f"{numbered}\n\n{_comparison(state, settings)}{takes}"


def _comparison(state: State, settings: Rollout) -> str:
    """Return what a comparison under load is."""
    text = (
        f"A comparison lasts at least {settings.window:g} s, until it is clear whether version {state.new}\n"
        f"takes {settings.latency:g} times as long as version {state.old}, or {200 * settings.error_rate:g} % more of "
        "its requests fail."
    )
    if not settings.probe:
        return f"{text}\nOnly requests from clients are compared: `rollout.probe` is 0."
    where = f", and to {settings.address}" if settings.address else ""
    return f"{text}\nMeanwhile a probe sends {settings.probe:g} golden requests per second to each version{where}."


def _own(state: State, settings: Rollout) -> list[str]:
    """Return the steps before the first request moves that models.yaml adds."""
    shadow = [f"replay {settings.shadow} to both versions, and compare the outputs"] if settings.shadow else []
    commands = [f"run {' '.join(words)}" for words in settings.commands]
    return [*shadow, *commands, *(["wait for `rollout promote`"] if state.manual else [])]


def _by_pods(state: State, settings: Rollout) -> list[str]:
    return [
        f"start as many pods with version {state.new} of {state.model} as there are with version {state.old}",
        "send the golden requests to each new pod over gRPC and REST, and compare the outputs",
        f"compare the quality and latency of versions {state.new} and {state.old}",
        *_own(state, settings),
        *(f"move {weight} % of the requests to version {state.new}, and compare" for weight in settings.weights),
        f"bake for {settings.bake:g} s, then send the golden requests again",
        f"replace the pods with version {state.old} by pods with version {state.new}, and verify these",
        "move all requests to them, and delete the other pods",
    ]


def _in_place(state: State, settings: Rollout) -> list[str]:
    canary = canary_name(state.model)
    return [
        f"load version {state.new} on every server as {canary}; clients of {state.model} get version {state.old}",
        "send the golden requests to every server over gRPC and REST, and compare the outputs",
        f"compare the quality and latency of versions {state.new} and {state.old}",
        *_own(state, settings),
        f"move the clients of the first server to version {state.new}, and compare",
        "move the clients of the other servers",
        f"bake for {settings.bake:g} s, then send the golden requests again",
        f"unload version {state.old}" + (f" and {canary}" if CANARY not in state.labels else ""),
    ]
