"""`rollout start --in-cluster`: starts a Job that rolls out, and follows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.clients.printable import printable
from tfserving.foundation.command.errors import FAILED, CommandError
from tfserving.k8s.commands.failures import failing
from tfserving.k8s.commands.rollout_status import write
from tfserving.k8s.hints import recommended

if TYPE_CHECKING:
    from tfserving.k8s.commands.place import Place
    from tfserving.k8s.rollout.state import State
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.models_yaml.rollout import Rollout


def in_a_job(fleet: Fleet, model: str) -> str:
    """Return what runs the rollout, for `--dry-run`."""
    from tfserving.k8s.names import Names

    ours = Names.of(fleet)
    return (
        f"The Job {ours.job(model)} runs it in the cluster, with the account {ours.account}.\n"
        "The component `rollouts` has the account and its permissions: `tfserving k8s render --overlay rollouts`."
    )


def job_runs(fleet: Fleet, model: str, place: Place) -> bool:
    """Return whether there is a Job that rolls the model out, or will when it has a pod."""
    from tfserving.k8s.rollout.in_cluster.launch import running

    return running(fleet, model, place.kubectl(fleet))


def delete_job(fleet: Fleet, model: str, place: Place) -> None:
    """Delete the Job, and wait for the end of its pod."""
    from tfserving.k8s.rollout.in_cluster.launch import delete

    delete(fleet, model, place.kubectl(fleet))


def launched(fleet: Fleet, state: State, place: Place, settings: Rollout, wait: float) -> None:
    """Start the Job, unless it runs. Raises RolloutError, FleetError and KubectlError."""
    from tfserving.k8s.names import Names
    from tfserving.k8s.rollout.cluster import ClusterStore
    from tfserving.k8s.rollout.in_cluster.launch import launch, running

    fleet, kubectl = place.in_namespace(fleet), place.kubectl(fleet)
    if running(fleet, state.model, kubectl):
        name = Names.of(fleet).job(state.model)
    else:
        store = ClusterStore(kubectl, Names.of(fleet), state.model)
        name = launch(fleet, state, settings, store, kubectl, wait)
    click.echo(f"The Job {name} runs the rollout. Ctrl-C ends the following, and not the rollout.", err=True)


def followed(fleet: Fleet, model: str, place: Place, report: Path | None) -> None:
    """Print the Job's log until it ends; write the labels to models.yaml when the version is stable.

    Raises CommandError when it isn't.
    """
    from tfserving.k8s.names import Names
    from tfserving.k8s.rollout.in_cluster.following import follow

    name, store = Names.of(fleet).job(model), place.store(fleet, model)
    try:
        with failing(FAILED):
            follow(name, place.kubectl(fleet), lambda line: click.echo(printable(line), err=True))
            state = store.load()
    except KeyboardInterrupt:
        click.echo(
            f"\nThe Job {name} continues the rollout. Follow it with the same command, which also writes the labels to "
            f"models.yaml, or with `{recommended(f'rollout status {model} --watch')}`.",
            err=True,
        )
        raise
    if state and report:
        write(report, state, running=False)
    if state is None or not state.over:
        raise CommandError(
            f"the Job {name} ended before the rollout: {state}. Its log has the reason. Run the same command again to "
            f"resume it, or go back with `{recommended(f'rollout abort {model}')}`.",
            FAILED,
        )
    if state.phase == "rolled-back":
        raise CommandError(printable(f"rolled back: {state.reason}"), FAILED)
    write_final_labels(fleet, state)


def write_final_labels(fleet: Fleet, state: State) -> None:
    """Write the labels after a rollout to models.yaml. Raises CommandError."""
    from tfserving.k8s.rollout.serves import final_labels
    from tfserving.serving.models_yaml.file import write_labels

    with failing(FAILED):
        write_labels(fleet.file, state.model, final_labels(state))
    click.echo(f"{fleet.file.name} has the labels of {state.model} after the rollout.", err=True)


def labels_are_missing(fleet: Fleet, state: State | None, place: Place) -> bool:
    """Return whether models.yaml still has the labels before the last rollout, and the cluster those after it."""
    from tfserving.k8s import deployment
    from tfserving.k8s.names import Names
    from tfserving.k8s.rollout.serves import final_labels

    if not place.cluster or state is None or state.phase != "done":
        return False
    after = final_labels(state)
    if after == state.labels or dict(fleet.models[state.model].labels) != state.labels:
        return False
    return deployment.labels(Names.of(fleet), place.kubectl(fleet)).get(state.model) == after
