"""`rollout start`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.errors import FAILED, WRONG, CommandError
from tfserving.foundation.command.options import Finite, complete_models, fleet_option, report_option, wait_option
from tfserving.k8s.commands.failures import failing
from tfserving.k8s.commands.in_cluster import followed, in_a_job, labels_are_missing, launched, write_final_labels
from tfserving.k8s.commands.place import Place, place_options, read_with
from tfserving.k8s.commands.rollout_status import write
from tfserving.k8s.commands.running import check_others, judged_again, make_controller, run
from tfserving.k8s.commands.stable_label import check_same_labels, set_stable, with_stable
from tfserving.k8s.hints import recommended

if TYPE_CHECKING:
    from tfserving.k8s.rollout.state import State, StrategyName
    from tfserving.serving.models_yaml.fleet import Fleet


@click.command(
    epilog="""\b
Examples:
  tfserving rollout start digits --dry-run
  tfserving rollout start digits/7 --bake 10
  tfserving rollout start digits --manual      waits for `rollout promote`
  tfserving rollout start digits --report report.html
  tfserving rollout start digits --cluster --namespace models
  tfserving rollout start digits --cluster --by-pods
  tfserving rollout start digits --in-cluster

\b
Exit codes: 0 the version is stable; 1 it was rolled back, or the rollout
failed on the way; 2 nothing was changed; 3 no server can be reached."""
)
@click.argument("version", metavar="MODEL[/VERSION]", shell_complete=complete_models)
@fleet_option
@place_options
@click.option("--by-pods", is_flag=True, help="On a cluster: start pods with the new version, and move the weights.")
@click.option("--in-cluster", is_flag=True, help="Run the rollout in the cluster, as a Job, and follow it.")
@click.option("--dry-run", is_flag=True, help="Print the steps, and change nothing.")
@click.option("--manual", is_flag=True, help="Wait for `rollout promote` before clients move.")
@click.option("--accept-quality", is_flag=True, help="Continue when metrics, evaluation or drift fail.")
@click.option(
    "--shadow",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Replay these captured requests to both versions before clients move.",
)
@click.option("--window", type=Finite(min=0.1), metavar="SECONDS", help="The shortest time of a comparison.")
@click.option("--bake", type=Finite(min=0), metavar="SECONDS", help="The time before the old version is unloaded.")
@report_option
@wait_option
def start(
    version: str,
    fleet: Path,
    place: Place,
    by_pods: bool,
    in_cluster: bool,
    dry_run: bool,
    manual: bool,
    accept_quality: bool,
    shadow: Path | None,
    window: float | None,
    bake: float | None,
    report: Path | None,
    wait: float,
) -> None:
    """Roll out VERSION of MODEL, by default its newest one.

    A rollout that was interrupted is resumed. If the model has no label
    `stable`, the version that clients get now becomes stable first. Limits are
    the key `rollout` of models.yaml; the options override it.
    """
    from tfserving.k8s.rollout.plan import described

    model, new = _model_and_version(version)
    if by_pods and not place.cluster:
        raise click.UsageError("--by-pods needs --cluster: servers of this machine have no pods.")
    with failing(WRONG):
        read = read_with(fleet, model)
        if place.cluster and "argo-rollouts" in read.kubernetes.components:
            label = f"labels set {model} stable={new or 'VERSION'}"
            raise CommandError(
                "the component 'argo-rollouts' rolls out what models.yaml contains. "
                f"`{recommended(label)}`, then `{recommended('k8s apply')}` rolls out a version.",
                WRONG,
            )
        given = {"window": window, "bake": bake, "shadow": shadow and shadow.absolute()}
        settings = read.rollout.model_copy(update={key: value for key, value in given.items() if value is not None})
        store = place.store(read, model)
        before = store.load()
        if before and not dry_run and labels_are_missing(read, before, place):
            # It ran in the cluster, and nobody followed it to its end.
            write_final_labels(read, before)
            read = read_with(fleet, model)
            if new in (None, before.new) and read.versions(model)[-1:] == [before.new]:
                return
        if before and not before.over:
            state = _resumed(before, new, dry=dry_run)
            read = read if dry_run or in_cluster else judged_again(read, state, place)
        else:
            strategy: StrategyName = "pods" if by_pods else "in-place"
            read, state = _planned(
                read, model, new, place, wait, manual=manual or settings.manual, strategy=strategy, dry=dry_run
            )
            state = _of_enough_quality(read, dataclasses.replace(state, accept_quality=accept_quality), report, dry_run)
            check_others(store, state)
        if dry_run:
            click.echo(described(state, settings))
            if in_cluster:
                click.echo(in_a_job(read, model))
            return
        if in_cluster:
            launched(read, state, place, settings, wait)
        else:
            controller = make_controller(read, state, place, wait, settings)
    if in_cluster:
        followed(read, model, place, report)
    else:
        run(controller, state, again="Run the same command again to resume it", report=report)


def _resumed(before: State, new: int | None, *, dry: bool) -> State:
    """Return the state of a rollout that isn't over. Raises CommandError when another version is wanted."""
    if new not in (None, before.new):
        raise CommandError(
            f"another rollout is not over: {before}. Resume it with `{recommended(f'rollout start {before.model}')}`, "
            f"or take it back with `{recommended(f'rollout abort {before.model}')}`.",
            WRONG,
        )
    if not dry:
        _log(f"Resuming the rollout of {before}.")
    return before


def _of_enough_quality(fleet: Fleet, state: State, report: Path | None, dry: bool) -> State:
    """Return `state` with the metrics of both manifests. Raises CommandError when the new version's are worse."""
    from tfserving.k8s.rollout.plan import with_metrics
    from tfserving.k8s.rollout.progress import Progress
    from tfserving.k8s.rollout.target import GateError

    try:
        return with_metrics(fleet, state, _log if dry else Progress())
    except GateError as error:
        if report and not dry:
            figures = (error.figure,) if error.figure else ()
            stopped = dataclasses.replace(state, phase="rolled-back", reason=str(error), figures=figures)
            write(report, stopped, running=False)
        raise CommandError(f"version {state.new} is not rolled out: {error}", FAILED) from None


def _model_and_version(text: str) -> tuple[str, int | None]:
    """Return the parts of MODEL[/VERSION]. Raises UsageError."""
    from tfserving.foundation.golden import is_version

    model, slash, version = text.partition("/")
    if slash and not (is_version(version) and int(version) >= 1):
        raise click.UsageError(f"Got {text!r}, expected MODEL or MODEL/VERSION, such as digits/3.")
    return model, int(version) if slash else None


def _planned(
    fleet: Fleet,
    model: str,
    new: int | None,
    place: Place,
    wait: float,
    *,
    manual: bool,
    strategy: StrategyName,
    dry: bool,
) -> tuple[Fleet, State]:
    """Return the plan of a new rollout, and the fleet with a label `stable` of the model, which is set if needed."""
    from tfserving.k8s.rollout.plan import StableError, plan
    from tfserving.serving.models_yaml.fleet import STABLE

    if STABLE in fleet.models[model].labels:
        if place.cluster:
            check_same_labels(fleet, model, place)
        state = plan(fleet, model, new, manual=manual, strategy=strategy)
        return _judged(fleet, state), state
    labelled = with_stable(fleet, model, place)
    version = labelled.models[model].labels[STABLE]

    def label() -> None:
        if dry:
            _log(
                f"{model} has no label `stable`. The rollout first sets it to version {version}, which clients get now."
            )
            return
        set_stable(labelled, model, place, wait)
        _log(f"{model} had no label `stable`: set it to version {version}, which clients get now.")

    try:
        state = plan(labelled, model, new, manual=manual, strategy=strategy)
    except StableError as error:
        # With the label, a version that is exported next doesn't reach clients before its rollout.
        label()
        raise CommandError(str(error), WRONG if dry else FAILED) from None
    read = _judged(labelled, state)
    label()
    return read, state


def _judged(fleet: Fleet, state: State) -> Fleet:
    from tfserving.foundation.command.progress import Progress
    from tfserving.k8s.rollout.plan import judged

    with Progress() as progress:
        return judged(fleet, state, progress.update)


def _log(text: str) -> None:
    """Print a line on stderr."""
    click.echo(text, err=True)
