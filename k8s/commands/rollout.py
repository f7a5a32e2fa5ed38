"""`rollout start`, `pause`, `promote`, `abort` and `undo`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.errors import FAILED, WRONG, CommandError
from tfserving.foundation.command.group import Group
from tfserving.foundation.command.options import Finite, complete_models, fleet_option, report_option, wait_option
from tfserving.k8s.commands.failures import failing
from tfserving.k8s.commands.place import Place, model_argument, place_options, read_with
from tfserving.k8s.commands.rollout_status import report, status, write
from tfserving.k8s.commands.running import make_controller, run
from tfserving.k8s.commands.stable_label import set_stable, with_stable
from tfserving.k8s.hints import recommended

if TYPE_CHECKING:
    from tfserving.k8s.rollout.state import Request, State, StrategyName
    from tfserving.serving.models_yaml.fleet import Fleet


@click.group(
    cls=Group,
    epilog="""\b
Examples:
  tfserving rollout start digits --dry-run    print the steps and the time
  tfserving rollout start digits
  tfserving rollout status digits --watch     in another shell
  tfserving rollout report digits             write an HTML report
  tfserving rollout undo digits               go back to the version before""",
)
def rollout() -> None:
    """Roll out a new version, and back if it is worse.

    Clients get the version with the label `stable`. Every server first loads
    the new version under another name, MODEL-canary. There it is verified and
    compared with the old version. Then clients move, server by server, and
    failures and latency are compared again. If a check fails, clients get the
    old version again.

    The servers are those of this machine, or with --cluster the pods of a
    Kubernetes cluster.
    """


@rollout.command(
    epilog="""\b
Examples:
  tfserving rollout start digits --dry-run
  tfserving rollout start digits/7 --bake 10
  tfserving rollout start digits --manual      waits for `rollout promote`
  tfserving rollout start digits --report report.html
  tfserving rollout start digits --cluster --namespace models
  tfserving rollout start digits --cluster --by-pods

\b
Exit codes: 0 the version is stable; 1 it was rolled back, or the rollout
failed on the way; 2 nothing was changed; 3 no server can be reached."""
)
@click.argument("version", metavar="MODEL[/VERSION]", shell_complete=complete_models)
@fleet_option
@place_options
@click.option("--by-pods", is_flag=True, help="With --cluster: start pods with the new version, and move the weights.")
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
    from tfserving.k8s.rollout.plan import described, with_metrics
    from tfserving.k8s.rollout.progress import Progress
    from tfserving.k8s.rollout.target import GateError

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
        if before and not before.over:
            if new not in (None, before.new):
                raise CommandError(
                    f"another rollout is not over: {before}. Resume it with `{recommended(f'rollout start {model}')}`, "
                    f"or take it back with `{recommended(f'rollout abort {model}')}`.",
                    WRONG,
                )
            state = before
            if not dry_run:
                _log(f"Resuming the rollout of {before}.")
        else:
            strategy: StrategyName = "pods" if by_pods else "in-place"
            read, state = _planned(
                read, model, new, place, wait, manual=manual or settings.manual, strategy=strategy, dry=dry_run
            )
            try:
                state = dataclasses.replace(state, accept_quality=accept_quality)
                state = with_metrics(read, state, _log if dry_run else Progress())
            except GateError as error:
                if report and not dry_run:
                    figures = (error.figure,) if error.figure else ()
                    stopped = dataclasses.replace(state, phase="rolled-back", reason=str(error), figures=figures)
                    write(report, stopped, running=False)
                raise CommandError(f"version {state.new} is not rolled out: {error}", FAILED) from None
        if dry_run:
            click.echo(described(state, settings))
            return
        controller = make_controller(read, state, place, wait, settings)
    run(controller, state, again="Run the same command again to resume it", report=report)


@rollout.command(
    epilog="""\b
Example:
  tfserving rollout pause digits"""
)
@model_argument
@fleet_option
@place_options
def pause(model: str, fleet: Path, place: Place) -> None:
    """Pause the rollout of MODEL before its next phase.

    It continues with `promote`, or goes back with `abort`.
    """
    _request(model, fleet, place, "pause")


@rollout.command(
    epilog="""\b
Example:
  tfserving rollout promote digits

\b
Exit codes: 0 the version is stable, or the process of the rollout continues;
1 it was rolled back, or failed on the way; 2 no rollout is in progress."""
)
@model_argument
@fleet_option
@place_options
@wait_option
def promote(model: str, fleet: Path, place: Place, wait: float) -> None:
    """Continue a rollout of MODEL that is paused or manual.

    If no process runs the rollout any more, this one does.
    """
    _request(model, fleet, place, "promote", wait)


@rollout.command(
    epilog="""\b
Example:
  tfserving rollout abort digits

\b
Exit codes: 0 clients get the old version, or the process of the rollout
goes back; 1 the rollback failed; 2 no rollout is in progress, or it is too
late."""
)
@model_argument
@fleet_option
@place_options
@wait_option
def abort(model: str, fleet: Path, place: Place, wait: float) -> None:
    """Stop the rollout of MODEL, and go back to the old version."""
    _request(model, fleet, place, "abort", wait)


@rollout.command(
    epilog="""\b
Example:
  tfserving rollout undo digits

\b
Exit codes: 0 the old version is stable again; 1 it was rolled back, or
failed on the way; 2 there is nothing to undo."""
)
@model_argument
@fleet_option
@place_options
@wait_option
def undo(model: str, fleet: Path, place: Place, wait: float) -> None:
    """Go back to the version before the last rollout of MODEL.

    The old version is verified again. There is no comparison and no bake.
    """
    from tfserving.k8s.rollout.plan import plan

    with failing(WRONG):
        read = read_with(fleet, model)
        last = place.store(read, model).load()
        if last is None or last.phase != "done":
            raise CommandError(_nothing_to_undo(model, last), WRONG)
        state = plan(read, model, last.old, strategy=last.strategy)
        limits = {"window": 0.0, "longest": 0.0, "bake": 0.0, "weights": (100,), "probe": 0.0}
        controller = make_controller(read, state, place, wait, read.rollout.model_copy(update=limits))
    run(controller, state)


def _nothing_to_undo(model: str, last: State | None) -> str:
    """Return why a model has no rollout to undo."""
    if last is None:
        return f"{model} has never been rolled out, so there is nothing to undo."
    if last.over:
        return (
            f"the last rollout of {model} was rolled back already: clients get version {last.old}. There is nothing to "
            "undo."
        )
    return f"a rollout is in progress: {last}. Take it back with `{recommended(f'rollout abort {model}')}`."


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
        return fleet, plan(fleet, model, new, manual=manual, strategy=strategy)
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
    label()
    return labelled, state


def _request(model: str, fleet: Path, place: Place, request: Request, wait: float = 180.0) -> None:
    """Send a request to the process that runs the rollout; if none does, run it here."""
    with failing(WRONG):
        read = read_with(fleet, model)
        store = place.store(read, model)
        state = store.load()
        if state is None or state.over:
            raise CommandError(f"no rollout of {model} is in progress.", WRONG)
        if request == "abort" and not state.returnable:
            raise CommandError(
                f"{state}: it is too late to abort. Undo it once it is done, with "
                f"`{recommended(f'rollout undo {model}')}`.",
                WRONG,
            )
        if store.held():
            store.send_request(request)
            _log(f"Sent `{request}` to the process that rolls out {model}.")
            return
        if request == "pause":
            store.save(dataclasses.replace(state, paused=True))
            _log(str(store.load()))
            return
        controller = make_controller(read, state, place, wait, read.rollout)
        state = state.back("aborted") if request == "abort" else dataclasses.replace(state, paused=False, manual=False)
    run(controller, state, back=request == "abort")


def _log(text: str) -> None:
    """Print a line on stderr."""
    click.echo(text, err=True)


for _command in (status, report):
    rollout.add_command(_command)
