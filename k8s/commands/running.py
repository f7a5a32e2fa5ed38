"""Runs a rollout to its end, in this process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.clients.printable import printable
from tfserving.foundation.command.errors import FAILED, UNREACHABLE, WRONG, CommandError
from tfserving.k8s.commands.failures import code_of, failing
from tfserving.k8s.commands.rollout_status import write
from tfserving.k8s.hints import recommended

if TYPE_CHECKING:
    from tfserving.k8s.commands.place import Place
    from tfserving.k8s.rollout.controller import Controller
    from tfserving.k8s.rollout.progress import Progress
    from tfserving.k8s.rollout.state import State
    from tfserving.k8s.rollout.strategy import Strategy
    from tfserving.k8s.rollout.target import Store
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.models_yaml.rollout import Rollout

# The lease of a process that was killed ends within 15 seconds.
_PATIENCE_SECONDS = 25.0
_POLL_SECONDS = 1.0


def make_controller(
    fleet: Fleet,
    state: State,
    place: Place,
    wait: float,
    settings: Rollout,
    *,
    write: bool = True,
    check: bool = True,
) -> Controller:
    """Return a controller; with `check`, one whose servers can be reached. Without `write`, models.yaml isn't changed.

    Raises RolloutError.
    """
    from tfserving.k8s.rollout.controller import Controller
    from tfserving.k8s.rollout.progress import Progress

    log = Progress()
    strategy = _strategy(fleet, state, place, wait, settings, log, write=write)
    if check:
        strategy.check(state)
    return Controller(strategy, place.store(fleet, state.model), log)


def judged_again(fleet: Fleet, state: State, place: Place, *, back: bool = False) -> Fleet:
    """Return the fleet whose versions another process of a rollout reads. See `plan.judged`.

    Without `trust` they were judged when the rollout started. Raises RolloutError and EngineError.
    """
    from tfserving.foundation.command.progress import Progress
    from tfserving.k8s.rollout.plan import judged

    if fleet.trust is None or state.over:
        return fleet
    with Progress() as progress:
        # A pod that connects to others has copies that nothing else writes to.
        return judged(fleet, state, progress.update, copy=not place.direct, back=back or state.phase == "rolling-back")


def check_others(store: Store, state: State) -> None:
    """Raise RolloutError when a rollout of another model excludes a new one in `state`."""
    from tfserving.k8s.rollout.target import RolloutError

    for other in store.others():
        # Pods of the second Deployment have one version of every model.
        if not other.over and "pods" in (other.strategy, state.strategy):
            raise RolloutError(
                f"a rollout of another model is in progress: {other}. By pods, only one can run at a time."
            )


def _strategy(
    fleet: Fleet, state: State, place: Place, wait: float, settings: Rollout, log: Progress, *, write: bool
) -> Strategy:
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
        if write:
            write_labels(fleet.file, model, labels)

    kubectl = place.kubectl(fleet)
    if state.strategy == "pods":
        return ByPods(place.in_namespace(fleet), wait, log, kubectl, finished)
    return InPlace(fleet, wait, log, ClusterTarget(kubectl, Names.of(fleet), wait, finished))


def run(
    controller: Controller,
    state: State,
    *,
    again: str = "",
    back: bool = False,
    report: Path | None = None,
    resumed: bool = False,
) -> None:
    """Run a rollout to its end, or `back`, and write its report. Raises CommandError.

    `again` is how to resume it after an interruption. With `resumed` this process takes the place of one that may have
    been killed a moment ago: it waits for the right to roll out, and gets the requests that were left for the other.
    """
    from tfserving.k8s.kubectl import KubectlError
    from tfserving.k8s.rollout.target import RolloutError
    from tfserving.serving.engines import EngineError
    from tfserving.serving.models_yaml.fleet import FleetError

    again = again or f"Resume it with `{recommended(f'rollout start {state.model}')}`"
    failure: BaseException | None = None
    try:
        ended = _run(controller, state, resumed=resumed)
        if ended.phase == "rolled-back" and not back:
            failure = CommandError(printable(f"rolled back: {ended.reason}"), FAILED)
    except CommandError:
        raise
    except (EngineError, FleetError, KubectlError, RolloutError) as error:
        # Another process can continue: a Job starts one.
        code = UNREACHABLE if resumed else code_of(error, FAILED)
        failure = CommandError(printable(f"{str(error).rstrip('.')}. {again}."), code)
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


def _run(controller: Controller, state: State, *, resumed: bool) -> State:
    """Run a rollout to its end while holding its lease; return the final state."""
    from tfserving.foundation.interrupts import ended_as_by_ctrl_c

    with contextlib.ExitStack() as stack:
        # Port forwarding ends, and the lease is released.
        stack.enter_context(ended_as_by_ctrl_c())
        stack.enter_context(_lease(controller.store, _PATIENCE_SECONDS if resumed else 0.0))
        stack.enter_context(controller.log)
        if resumed:
            # The other process may have gone on in the meantime.
            state = controller.store.load() or state
        else:
            # A request that was left for an earlier process is not for this one.
            controller.store.take_request()
        return controller.run(state)


@contextlib.contextmanager
def _lease(store: Store, seconds: float) -> Iterator[None]:
    """Hold the right to roll out, waited for up to `seconds`. Raises CommandError."""
    from tfserving.k8s.rollout.target import HeldError

    with contextlib.ExitStack() as stack:
        deadline = time.monotonic() + seconds
        while True:
            try:
                stack.enter_context(store.lease())
                break
            except HeldError as error:
                if time.monotonic() > deadline:
                    raise CommandError(str(error), WRONG) from None
            time.sleep(_POLL_SECONDS)
        yield


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
