"""`rollout`: a new version takes over on the servers that run, and goes back by itself when it is worse."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.clients.printable import printable
from tfserving.foundation.command.options import fleet_option, report_option, wait_option
from tfserving.k8s.commands.errors import Errors, refuse
from tfserving.k8s.commands.place import Place, model_argument, place_options
from tfserving.k8s.commands.rollout_status import report, status, write
from tfserving.serving.commands.options import read_with, say

if TYPE_CHECKING:
    from tfserving.k8s.rollout.controller import Controller
    from tfserving.k8s.rollout.progress import Progress
    from tfserving.k8s.rollout.state import Request, State, WayName
    from tfserving.k8s.rollout.way import Way
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.models_yaml.rollout import Rollout


def _ending(examples: str, done: str, failed: str) -> str:
    """Examples of a command that moves a rollout, and its exit codes."""
    return f"""\b
Examples:
{examples}

\b
Exit codes:
  0    {done}
  1    {failed}, or something failed on the way
  2    something was wrong before anything changed
  130  interrupted, and `rollout start` resumes it"""


@click.group(
    epilog="""\b
Examples:
  tfserving k8s rollout start digits --dry-run    what it would do, and how long it would take
  tfserving k8s rollout start digits
  tfserving k8s rollout status digits --watch     from any other shell
  tfserving k8s rollout report digits             a page to send to somebody
  tfserving k8s rollout undo digits"""
)
def rollout() -> None:
    """Rolls a new version of a model out over this machine's servers, whatever engine runs them, or a cluster's pods.

    Every server loads the new version under a name of its own, MODEL-canary, while clients get the old one. There it is
    proven by its golden requests, and compared with the old one: quality, drift, latency. Then clients move, server by
    server, and what comes of their requests is compared. The old version is unloaded after a while. Or, by pods, a
    second Deployment has the new version, and a Gateway sends it more and more of the requests. When a gate fails, all
    is as before.
    """


@rollout.command(
    epilog=_ending(
        """\
  tfserving k8s rollout start digits --dry-run
  tfserving k8s rollout start digits 7 --bake 10
  tfserving k8s rollout start digits --manual      waits for `rollout promote digits`
  tfserving k8s rollout start digits --report report.html
  tfserving k8s rollout start digits --cluster --namespace models
  tfserving k8s rollout start digits --cluster --by-pods""",
        "the version is stable",
        "its metrics are worse, it was rolled back",
    )
)
@model_argument
@click.argument("version", type=click.IntRange(min=1), required=False)
@fleet_option
@place_options
@click.option("--by-pods", is_flag=True, help="With --cluster: by a second Deployment and the Gateway's weights.")
@click.option("--dry-run", is_flag=True, help="Print the steps, and change nothing.")
@click.option("--manual", is_flag=True, help="Wait for `rollout promote` before `stable` moves.")
@click.option("--accept-quality", is_flag=True, help="Go on with a version whose metrics, evaluation or drift fail.")
@click.option(
    "--shadow",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Captured requests, which are replayed to both versions before any client moves.",
)
@click.option("--window", type=click.FloatRange(min=0.1), help="Seconds for which versions are compared, at least.")
@click.option("--bake", type=click.FloatRange(min=0), help="Seconds before the old version is unloaded.")
@report_option
@wait_option
def start(
    model: str,
    version: int | None,
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
    """Rolls MODEL out to VERSION, its newest when not given; or goes on with what was interrupted.

    `rollout:` in models.yaml says what the gates allow; these options go before it.
    """
    from tfserving.k8s.rollout.plan import described, plan, with_metrics
    from tfserving.k8s.rollout.progress import Progress
    from tfserving.k8s.rollout.target import GateError

    if by_pods and not place.cluster:
        refuse("--by-pods needs --cluster: a server of this machine has no pods")
    with Errors(2):
        read = read_with(fleet, model)
        given = {"window": window, "bake": bake, "shadow": shadow and shadow.absolute()}
        settings = read.rollout.model_copy(update={key: value for key, value in given.items() if value is not None})
        store = place.store(read, model)
        before = store.load()
        if before and not before.over:
            state = before
            if version not in (None, before.new):
                refuse(f"{before} is not over; `rollout abort {model}` goes back, `rollout start {model}` goes on")
        else:
            way: WayName = "pods" if by_pods else "in-place"
            state = plan(read, model, version, manual=manual or settings.manual, way=way)
            try:
                state = dataclasses.replace(state, accept_quality=accept_quality)
                state = with_metrics(read, state, say if dry_run else Progress())
            except GateError as error:
                click.echo(f"Error: version {state.new} is not rolled out: {error}", err=True)
                if report and not dry_run:
                    figures = (error.figure,) if error.figure else ()
                    stopped = dataclasses.replace(state, phase="rolled-back", reason=str(error), figures=figures)
                    write(report, stopped, running=False)
                sys.exit(1)
        if dry_run:
            click.echo(described(state, settings))
            return
        controller = _controller(read, state, place, wait, settings)
    _run(controller, state, report=report)


@rollout.command(
    epilog="""\b
Example:
  tfserving k8s rollout pause digits

\b
Exit codes:
  0    it waits, or will before its next phase
  2    no rollout is under way, or its state can't be read"""
)
@model_argument
@fleet_option
@place_options
def pause(model: str, fleet: Path, place: Place) -> None:
    """Holds the rollout of MODEL before its next phase, until `promote` or `abort`."""
    _ask(model, fleet, place, "pause")


@rollout.command(
    epilog=_ending(
        "  tfserving k8s rollout promote digits",
        "the version is stable, or the shell that rolls out goes on",
        "it was rolled back",
    )
)
@model_argument
@fleet_option
@place_options
@wait_option
def promote(model: str, fleet: Path, place: Place, wait: float) -> None:
    """Goes on with a rollout of MODEL that is paused, or waits to be promoted."""
    _ask(model, fleet, place, "promote", wait)


@rollout.command(
    epilog=_ending(
        "  tfserving k8s rollout abort digits",
        "it was taken back, or the shell that rolls out takes it back",
        "it can't be taken back",
    )
)
@model_argument
@fleet_option
@place_options
@wait_option
def abort(model: str, fleet: Path, place: Place, wait: float) -> None:
    """Takes the rollout of MODEL back."""
    _ask(model, fleet, place, "abort", wait)


@rollout.command(
    epilog=_ending(
        "  tfserving k8s rollout undo digits",
        "the version before is stable again",
        "that version was rolled back",
    )
)
@model_argument
@fleet_option
@place_options
@wait_option
def undo(model: str, fleet: Path, place: Place, wait: float) -> None:
    """Rolls MODEL back to the version before the last rollout, proven again, without waiting for metrics."""
    from tfserving.k8s.rollout.plan import plan

    with Errors(2):
        read = read_with(fleet, model)
        last = place.store(read, model).load()
        if last is None or last.phase != "done":
            refuse(f"{last or model} is nothing to undo; `rollout abort {model}` ends one that is under way")
        state = plan(read, model, last.old, way=last.way)
        gates = {"window": 0.0, "longest": 0.0, "bake": 0.0, "weights": (100,), "probe": 0.0}
        controller = _controller(read, state, place, wait, read.rollout.model_copy(update=gates))
    _run(controller, state)


def _way(fleet: Fleet, state: State, place: Place, wait: float, settings: Rollout, say: Progress) -> Way:
    from tfserving.k8s.rollout.in_place import InPlace

    fleet = fleet.model_copy(update={"rollout": settings})
    if not place.cluster:
        from tfserving.k8s.rollout.local import LocalTarget
        from tfserving.serving.docker import deployment

        return InPlace(fleet, wait, say, LocalTarget(fleet, state.model, deployment.exists))
    from tfserving.k8s.rollout.by_pods import ByPods
    from tfserving.k8s.rollout.cluster import ClusterTarget
    from tfserving.serving.models_yaml.file import write_labels

    def finished(model: str, labels: Mapping[str, int]) -> None:
        write_labels(fleet.file, model, labels)

    kubectl = place.kubectl(fleet)
    if state.way == "pods":
        return ByPods(place.there(fleet), wait, say, kubectl, finished)
    return InPlace(fleet, wait, say, ClusterTarget(kubectl, wait, finished))


def _controller(fleet: Fleet, state: State, place: Place, wait: float, settings: Rollout) -> Controller:
    """A controller of servers that there are. Raises RolloutError when there are none, or others are moving them."""
    from tfserving.k8s.rollout.controller import Controller
    from tfserving.k8s.rollout.progress import Progress
    from tfserving.k8s.rollout.target import RolloutError

    store = place.store(fleet, state.model)
    for other in store.others():
        # Pods of the second Deployment have one version of every model.
        if not other.over and "pods" in (other.way, state.way):
            raise RolloutError(f"a rollout of another model is under way: {other}; by pods there is one at a time")
    say = Progress()
    way = _way(fleet, state, place, wait, settings, say)
    way.check(state)
    return Controller(way, store, say)


def _run(controller: Controller, state: State, *, back: bool = False, report: Path | None = None) -> None:
    """Runs a rollout to its end, or `back`, writes its report, and exits with what came of it."""
    from tfserving.foundation.interrupts import ended_as_by_ctrl_c
    from tfserving.k8s.kubectl import KubectlError
    from tfserving.k8s.rollout.target import HeldError, RolloutError
    from tfserving.serving.engines import EngineError
    from tfserving.serving.models_yaml.fleet import FleetError

    code, said = 0, ""
    try:
        with contextlib.ExitStack() as stack:
            # Ports that kubectl forwards are closed, and the lease is given back.
            stack.enter_context(ended_as_by_ctrl_c())
            try:
                stack.enter_context(controller.store.lease())
            except HeldError as error:
                refuse(str(error))
            stack.enter_context(controller.say)
            # What was asked of an earlier one is not meant for this.
            controller.store.asked()
            ended = controller.run(state)
            if ended.phase == "rolled-back" and not back:
                code, said = 1, printable(f"Error: rolled back: {ended.reason}")
    except (EngineError, FleetError, KubectlError, RolloutError) as error:
        code, said = 1, printable(f"Error: {error}; `rollout start {state.model}` goes on")
    except KeyboardInterrupt:
        code, said = 130, f"\nInterrupted; `rollout start {state.model}` goes on, `rollout abort` goes back."
    finally:
        controller.way.close()
    if said:
        click.echo(said, err=True)
    if report:
        with Errors(1):
            kept = controller.store.load()
        write(report, kept or state, running=False)
    sys.exit(code)


def _ask(model: str, fleet: Path, place: Place, request: Request, wait: float | None = None) -> None:
    """Asks the shell that rolls out; where there is none any more, does it."""
    with Errors(2):
        read = read_with(fleet, model)
        store = place.store(read, model)
        state = store.load()
        if state is None or state.over:
            refuse(f"no rollout of {model!r} is under way")
        elif request == "abort" and not state.returnable:
            refuse(f"{state}: it is too late for that; `rollout undo {model}` rolls it back once it is done")
        elif store.held():
            store.ask(request)
            click.echo(f"The shell that rolls {model} out was sent `{request}`.", err=True)
            return
        elif request == "pause":
            store.save(dataclasses.replace(state, paused=True))
            click.echo(str(store.load()), err=True)
            return
        else:
            controller = _controller(read, state, place, wait or 180.0, read.rollout)
            state = (
                state.back("aborted") if request == "abort" else dataclasses.replace(state, paused=False, manual=False)
            )
            _run(controller, state, back=request == "abort")


for _command in (status, report):
    rollout.add_command(_command)
