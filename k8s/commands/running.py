"""Runs a rollout to its end, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.clients.printable import printable
from tfserving.foundation.command.errors import FAILED, WRONG, CommandError
from tfserving.k8s.commands.failures import code_of, failing
from tfserving.k8s.commands.rollout_status import write
from tfserving.k8s.hints import recommended

if TYPE_CHECKING:
    from tfserving.k8s.commands.place import Place
    from tfserving.k8s.rollout.controller import Controller
    from tfserving.k8s.rollout.progress import Progress
    from tfserving.k8s.rollout.state import State
    from tfserving.k8s.rollout.strategy import Strategy
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.models_yaml.rollout import Rollout


def make_controller(fleet: Fleet, state: State, place: Place, wait: float, settings: Rollout) -> Controller:
    """Return a controller whose servers can be reached. Raises RolloutError."""
    from tfserving.k8s.rollout.controller import Controller
    from tfserving.k8s.rollout.progress import Progress
    from tfserving.k8s.rollout.target import RolloutError

    store = place.store(fleet, state.model)
    for other in store.others():
        # Pods of the second Deployment have one version of every model.
        if not other.over and "pods" in (other.strategy, state.strategy):
            raise RolloutError(
                f"a rollout of another model is in progress: {other}. By pods, only one can run at a time."
            )
    log = Progress()
    strategy = _strategy(fleet, state, place, wait, settings, log)
    strategy.check(state)
    return Controller(strategy, store, log)


def _strategy(fleet: Fleet, state: State, place: Place, wait: float, settings: Rollout, log: Progress) -> Strategy:
    from tfserving.k8s.rollout.in_place import InPlace

    fleet = fleet.model_copy(update={"rollout": settings})
    if not place.cluster:
        from tfserving.k8s.rollout.local import LocalTarget
        from tfserving.serving.docker import deployment

        return InPlace(fleet, wait, log, LocalTarget(fleet, state.model, deployment.exists))
    from tfserving.k8s.names import Names
    from tfserving.k8s.rollout.by_pods import ByPods
    from tfserving.k8s.rollout.cluster import ClusterTarget
    from tfserving.serving.models_yaml.file import write_labels

    def finished(model: str, labels: Mapping[str, int]) -> None:
        write_labels(fleet.file, model, labels)

    kubectl = place.kubectl(fleet)
    if state.strategy == "pods":
        return ByPods(place.in_namespace(fleet), wait, log, kubectl, finished)
    return InPlace(fleet, wait, log, ClusterTarget(kubectl, Names.of(fleet), wait, finished))


def run(
    controller: Controller, state: State, *, again: str = "", back: bool = False, report: Path | None = None
) -> None:
    """Run a rollout to its end, or `back`, and write its report. Raises CommandError.

    `again` is how to resume it after an interruption.
    """
    from tfserving.k8s.kubectl import KubectlError
    from tfserving.k8s.rollout.target import RolloutError
    from tfserving.serving.engines import EngineError
    from tfserving.serving.models_yaml.fleet import FleetError

    again = again or f"Resume it with `{recommended(f'rollout start {state.model}')}`"
    failure: BaseException | None = None
    try:
        ended = _run(controller, state)
        if ended.phase == "rolled-back" and not back:
            failure = CommandError(printable(f"rolled back: {ended.reason}"), FAILED)
    except CommandError:
        raise
    except (EngineError, FleetError, KubectlError, RolloutError) as error:
        failure = CommandError(printable(f"{str(error).rstrip('.')}. {again}."), code_of(error, FAILED))
    except BaseException as error:
        failure = error
    finally:
        controller.strategy.close()
    # Ctrl-C during an import becomes another error.
    interrupted = failure is not None and not isinstance(failure, CommandError)
    if interrupted or report:
        with failing(FAILED):
            stored = controller.store.load() or state
        if interrupted and not stored.over:
            click.echo(_left(stored, again), err=True)
        if report:
            write(report, stored, running=False)
    if failure:
        raise failure


def _run(controller: Controller, state: State) -> State:
    """Run a rollout to its end while holding its lease; return the final state."""
    from tfserving.foundation.interrupts import ended_as_by_ctrl_c
    from tfserving.k8s.rollout.target import HeldError

    with contextlib.ExitStack() as stack:
        # Port forwarding ends, and the lease is released.
        stack.enter_context(ended_as_by_ctrl_c())
        try:
            stack.enter_context(controller.store.lease())
        except HeldError as error:
            raise CommandError(str(error), WRONG) from None
        stack.enter_context(controller.log)
        # A request that was left for an earlier process is not for this one.
        controller.store.take_request()
        return controller.run(state)


def _left(state: State, again: str) -> str:
    """Return in which phase an interrupted rollout is, and how to continue."""
    clients = {
        "stable": f"some clients may already get version {state.new}",
        "baking": f"clients get version {state.new}",
        "unloading": f"clients get version {state.new}",
        "rolling-back": f"some clients may still get version {state.new}",
    }.get(state.phase, f"clients get version {state.old}")
    back = f", or go back with `{recommended(f'rollout abort {state.model}')}`" if state.returnable else ""
    return (
        f"\nThe rollout of {state.model} from version {state.old} to {state.new} stays in phase `{state.phase}`; "
        f"{clients}. {again}{back}."
    )
