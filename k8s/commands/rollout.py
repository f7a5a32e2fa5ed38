"""`rollout`: a new version takes over on the servers that run, and goes back by itself when it is worse."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.k8s.commands.errors import Errors, refuse
from tfserving.serving.commands.options import fleet_option, read_with, say, wait_option

if TYPE_CHECKING:
    from tfserving.k8s.kubectl import Kubectl
    from tfserving.k8s.rollout.controller import Controller
    from tfserving.k8s.rollout.state import Request, State, WayName
    from tfserving.k8s.rollout.target import Store
    from tfserving.k8s.rollout.way import Way
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.models_yaml.rollout import Rollout

_model = click.argument("model")


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the servers are: on this machine, or in a namespace of a cluster."""

    cluster: bool
    namespace: str | None
    context: str | None

    def kubectl(self, fleet: Fleet) -> Kubectl:
        from tfserving.k8s.kubectl import Kubectl

        return Kubectl(self.namespace or fleet.kubernetes.namespace, self.context, fleet.kubernetes.kubectl_seconds)

    def there(self, fleet: Fleet) -> Fleet:
        """The fleet as it is in the namespace."""
        if self.namespace is None:
            return fleet
        said = fleet.kubernetes.model_copy(update={"namespace": self.namespace})
        return fleet.model_copy(update={"kubernetes": said})


def _place(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where the servers are, made into one argument `place`."""

    @functools.wraps(command)
    def placed(*, cluster: bool, namespace: str | None, context: str | None, **others: object) -> None:
        return command(place=_Place(cluster, namespace, context), **others)

    for option in reversed(
        (
            click.option("--cluster", is_flag=True, help="The pods of a cluster instead of this machine's servers."),
            click.option("--namespace", help="With --cluster, the namespace; that of models.yaml when not given."),
            click.option("--context", help="With --cluster, kubectl's context; the current one when not given."),
        )
    ):
        placed = option(placed)
    return placed


_json = click.option("--json", "as_json", is_flag=True, help="As JSON, on stdout.")


@click.group()
def rollout() -> None:
    """Rolls a new version of a model out over this machine's servers, whatever engine runs them, or a cluster's pods.

    Every server loads the version beside the old one and is asked its golden requests; label `canary` moves to it, then
    `stable`, server by server, with gates in between; the old version is unloaded after a while. Or, by pods, a second
    Deployment has the new version, and a Gateway gives it more and more of the requests. A gate that fails takes
    everything back.
    """


@rollout.command(
    epilog="""\b
Examples:
  tfserving k8s rollout start digits --dry-run
  tfserving k8s rollout start digits 7 --bake 10
  tfserving k8s rollout start digits --manual      waits for `rollout promote digits`
  tfserving k8s rollout start digits --cluster --namespace models
  tfserving k8s rollout start digits --cluster --by-pods

\b
Exit codes: 0 the version is stable; 1 it was rolled back, for the reason that is printed; 2 something was wrong
before anything changed; 130 interrupted, and `rollout start` goes on."""
)
@_model
@click.argument("version", type=click.IntRange(min=1), required=False)
@fleet_option
@_place
@click.option("--by-pods", is_flag=True, help="With --cluster: by a second Deployment and the Gateway's weights.")
@click.option("--dry-run", is_flag=True, help="Print the steps, and change nothing.")
@click.option("--manual", is_flag=True, help="Wait for `rollout promote` before `stable` moves.")
@click.option("--window", type=click.FloatRange(min=0.1), help="Seconds for which versions are compared, at least.")
@click.option("--bake", type=click.FloatRange(min=0), help="Seconds before the old version is unloaded.")
@wait_option
def start(
    model: str,
    version: int | None,
    fleet: Path,
    place: _Place,
    by_pods: bool,
    dry_run: bool,
    manual: bool,
    window: float | None,
    bake: float | None,
    wait: float,
) -> None:
    """Rolls MODEL out to VERSION, its newest when not given; or goes on with what was interrupted.

    `rollout:` in models.yaml says what the gates allow; these options go before it.
    """
    from tfserving.k8s.rollout.plan import described, plan

    if by_pods and not place.cluster:
        refuse("--by-pods needs --cluster: a server of this machine has no pods")
    with Errors(2):
        read = read_with(fleet, model)
        given = {"window": window, "bake": bake}
        settings = read.rollout.model_copy(update={key: value for key, value in given.items() if value is not None})
        store = _store(read, model, place)
        before = store.load()
        if before and not before.over:
            state = before
            if version not in (None, before.new):
                refuse(f"{before} is not over; `rollout abort {model}` goes back, `rollout start {model}` goes on")
        else:
            way: WayName = "pods" if by_pods else "in-place"
            state = plan(read, model, version, manual=manual or settings.manual, way=way)
        if dry_run:
            click.echo(described(state, settings))
            return
        controller = _controller(read, state, place, wait, settings)
    _run(controller, state)


@rollout.command()
@_model
@fleet_option
@_place
@_json
def status(model: str, fleet: Path, place: _Place, as_json: bool) -> None:
    """Shows how far the last rollout of MODEL is, and what its gates saw."""
    with Errors(2):
        store = _store(read_with(fleet, model), model, place)
        state = store.load()
        running = state is not None and store.held()
    if as_json:
        said = {**dataclasses.asdict(state), "running": running} if state else None
        click.echo(json.dumps({"rollout": said}, indent=2))
        return
    if state is None:
        click.echo(f"{model} was never rolled out.")
        return
    going = "" if state.over else (", a shell is at it" if running else f"; `rollout start {model}` goes on")
    click.echo(f"{state}{going}")
    for figure in state.figures:
        click.echo(f"  {figure}")


@rollout.command()
@_model
@fleet_option
@_place
def pause(model: str, fleet: Path, place: _Place) -> None:
    """Holds the rollout of MODEL before its next phase, until `promote` or `abort`."""
    _ask(model, fleet, place, "pause")


@rollout.command()
@_model
@fleet_option
@_place
@wait_option
def promote(model: str, fleet: Path, place: _Place, wait: float) -> None:
    """Goes on with a rollout of MODEL that is paused, or waits to be promoted."""
    _ask(model, fleet, place, "promote", wait)


@rollout.command()
@_model
@fleet_option
@_place
@wait_option
def abort(model: str, fleet: Path, place: _Place, wait: float) -> None:
    """Takes the rollout of MODEL back."""
    _ask(model, fleet, place, "abort", wait)


@rollout.command()
@_model
@fleet_option
@_place
@wait_option
def undo(model: str, fleet: Path, place: _Place, wait: float) -> None:
    """Rolls MODEL back to the version before the last rollout, proven again, without waiting for metrics."""
    from tfserving.k8s.rollout.plan import plan

    with Errors(2):
        read = read_with(fleet, model)
        last = _store(read, model, place).load()
        if last is None or last.phase != "done":
            refuse(f"{last or model} is nothing to undo; `rollout abort {model}` ends one that is under way")
        state = plan(read, model, last.old, way=last.way)
        gates = {"window": 0.1, "samples": 0, "bake": 0.0, "latency": 1e9, "weights": (100,), "probe_rate": 0.0}
        controller = _controller(read, state, place, wait, read.rollout.model_copy(update=gates))
    _run(controller, state)


def _store(fleet: Fleet, model: str, place: _Place) -> Store:
    if place.cluster:
        from tfserving.k8s.rollout.cluster import ClusterStore

        return ClusterStore(place.kubectl(fleet), model)
    from tfserving.k8s.rollout.local import LocalStore

    return LocalStore(fleet, model)


def _way(fleet: Fleet, state: State, place: _Place, wait: float, settings: Rollout) -> Way:
    from tfserving.k8s.rollout.in_place import InPlace

    model, folder = state.model, fleet.model_folder(state.model)
    if not place.cluster:
        from tfserving.k8s.rollout.local import LocalTarget
        from tfserving.serving.docker import deployment

        return InPlace(folder, settings, wait, say, LocalTarget(fleet, model, deployment.exists))
    from tfserving.k8s.rollout.by_pods import ByPods
    from tfserving.k8s.rollout.cluster import ClusterTarget
    from tfserving.serving.models_yaml.file import write_labels

    def finished(model: str, labels: Mapping[str, int]) -> None:
        write_labels(fleet.file, model, labels)

    kubectl = place.kubectl(fleet)
    if state.way == "pods":
        return ByPods(folder, settings, wait, say, place.there(fleet), kubectl, finished)
    return InPlace(folder, settings, wait, say, ClusterTarget(kubectl, wait, finished))


def _controller(fleet: Fleet, state: State, place: _Place, wait: float, settings: Rollout) -> Controller:
    """A controller of servers that there are. Raises RolloutError when there are none, or others are moving them."""
    from tfserving.k8s.rollout.controller import Controller
    from tfserving.k8s.rollout.target import RolloutError

    store = _store(fleet, state.model, place)
    for other in store.others():
        # Pods of the second Deployment have one version of every model.
        if not other.over and "pods" in (other.way, state.way):
            raise RolloutError(f"a rollout of another model is under way: {other}; by pods there is one at a time")
    way = _way(fleet, state, place, wait, settings)
    way.check(state)
    return Controller(way, store, say)


def _run(controller: Controller, state: State) -> None:
    """Runs a rollout to its end, and exits with what came of it."""
    from tfserving.foundation.interrupts import ended_as_by_ctrl_c
    from tfserving.k8s.kubectl import KubectlError
    from tfserving.k8s.rollout.target import HeldError, RolloutError
    from tfserving.serving.engines import EngineError
    from tfserving.serving.models_yaml.fleet import FleetError

    try:
        with contextlib.ExitStack() as stack:
            # Ports that kubectl forwards are closed, and the lease is given back.
            stack.enter_context(ended_as_by_ctrl_c())
            try:
                stack.enter_context(controller.store.lease())
            except HeldError as error:
                refuse(str(error))
            # What was asked of an earlier one is not meant for this.
            controller.store.asked()
            ended = controller.run(state)
    except (EngineError, FleetError, KubectlError, RolloutError) as error:
        click.echo(f"Error: {error}; `rollout start {state.model}` goes on", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; `rollout start {state.model}` goes on, `rollout abort` goes back.", err=True)
        sys.exit(130)
    finally:
        controller.way.close()
    if ended.phase == "rolled-back":
        click.echo(f"Error: rolled back: {ended.reason}", err=True)
        sys.exit(1)


def _ask(model: str, fleet: Path, place: _Place, request: Request, wait: float | None = None) -> None:
    """Asks the shell that rolls out; where there is none any more, does it."""
    with Errors(2):
        read = read_with(fleet, model)
        store = _store(read, model, place)
        state = store.load()
        if state is None or state.over:
            refuse(f"no rollout of {model!r} is under way")
        elif request == "abort" and not state.returnable:
            refuse(f"{state}: it is too late for that; `rollout undo {model}` rolls it back once it is done")
        elif store.held():
            store.ask(request)
            say(f"Asked the shell that rolls {model} out.")
            return
        elif request == "pause":
            store.save(dataclasses.replace(state, paused=True))
            say(str(store.load()))
            return
        else:
            controller = _controller(read, state, place, wait or 180.0, read.rollout)
            state = (
                state.back("aborted") if request == "abort" else dataclasses.replace(state, paused=False, manual=False)
            )
            _run(controller, state)
