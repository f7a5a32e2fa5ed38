"""`rollout start`, `pause`, `promote`, `abort` and `undo`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.errors import WRONG, CommandError
from tfserving.foundation.command.group import Group
from tfserving.foundation.command.options import fleet_option, wait_option
from tfserving.k8s.commands.failures import failing
from tfserving.k8s.commands.in_cluster import delete_job, job_runs
from tfserving.k8s.commands.place import Place, model_argument, place_options, read_with
from tfserving.k8s.commands.rollout_status import report, status
from tfserving.k8s.commands.running import check_others, judged_again, make_controller, run
from tfserving.k8s.commands.start import start
from tfserving.k8s.hints import recommended

if TYPE_CHECKING:
    from tfserving.k8s.rollout.state import Request, State


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
  tfserving rollout resume digits
  tfserving rollout resume digits --cluster --direct --no-labels

\b
Exit codes: 0 the version is stable; 1 it was rolled back; 2 there is nothing
to resume, or another process runs it; 3 it can't continue now, and can be
resumed again."""
)
@model_argument
@fleet_option
@place_options
@click.option("--no-labels", is_flag=True, help="Don't write the labels to models.yaml.")
@wait_option
def resume(model: str, fleet: Path, place: Place, no_labels: bool, wait: float) -> None:
    """Run a started rollout of MODEL to its end.

    The process that ran it has ended. If that was a moment ago, this one waits
    until it may continue. The Job of `rollout start --in-cluster` runs this
    command.
    """
    with failing(WRONG):
        read = read_with(fleet, model)
        state = place.store(read, model).load()
        if state is None:
            raise CommandError(f"no rollout of {model} was started.", WRONG)
        read = judged_again(read, state, place)
        controller = make_controller(
            read, state, place, wait, read.rollout, write=not no_labels, check=state.phase == "loading"
        )
    run(controller, state, resumed=True)


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
    from tfserving.foundation.command.progress import Progress
    from tfserving.k8s.rollout.plan import judged, plan

    with failing(WRONG):
        read = read_with(fleet, model)
        store = place.store(read, model)
        last = store.load()
        if last is None or last.phase != "done":
            raise CommandError(_nothing_to_undo(model, last), WRONG)
        state = plan(read, model, last.old, strategy=last.strategy)
        with Progress() as progress:
            read = judged(read, state, progress.update)
        check_others(store, state)
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
        held = store.held()
        # The Job has no pod now. It may never get one, so an abort doesn't wait for it.
        waits = not held and place.cluster and job_runs(read, model, place)
        if waits and request == "abort":
            delete_job(read, model, place)
        elif held or waits:
            store.send_request(request)
            _log(f"Sent `{request}` to the process that rolls out {model}.")
            return
        if request == "pause":
            store.save(dataclasses.replace(state, paused=True))
            _log(str(store.load()))
            return
        read = judged_again(read, state, place, back=request == "abort")
        controller = make_controller(read, state, place, wait, read.rollout)
        state = state.back("aborted") if request == "abort" else dataclasses.replace(state, paused=False, manual=False)
    run(controller, state, back=request == "abort")


def _log(text: str) -> None:
    """Print a line on stderr."""
    click.echo(text, err=True)


for _command in (start, status, report):
    rollout.add_command(_command)
