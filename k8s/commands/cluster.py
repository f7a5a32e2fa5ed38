"""`k8s render`, `apply`, `diff`, `delete` and `status`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.clients.printable import printable
from tfserving.foundation.command.errors import FAILED, WRONG
from tfserving.foundation.command.options import fleet_option, json_option, models_argument, wait_option
from tfserving.foundation.command.progress import Progress
from tfserving.k8s.commands.failures import failing
from tfserving.k8s.commands.overlays import overlay_option, read_fleet_with
from tfserving.k8s.commands.place import context_option, direct_option
from tfserving.k8s.hints import recommended

if TYPE_CHECKING:
    from tfserving.k8s import pods
    from tfserving.k8s.kubectl import Kubectl, Object
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.served import Served


@click.command(
    epilog="""\b
Examples:
  tfserving k8s render
  tfserving k8s render --overlay volume --overlay monitoring"""
)
@models_argument
@fleet_option
@overlay_option
def render(names: tuple[str, ...], fleet: Path, overlays: tuple[str, ...]) -> None:
    """Print the manifests that `apply` sends to the cluster.

    They are generated from models.yaml; its key `kubernetes` has the settings.
    """
    from tfserving.k8s import rendering

    with failing(WRONG):
        read, names, kubectl = read_fleet_with(fleet, names, None, overlays)
        click.echo(rendering.render(read, names, kubectl), nl=False)


@click.command(
    epilog="""\b
Examples:
  tfserving k8s apply --dry-run    the cluster checks it, nothing changes
  tfserving k8s apply

\b
Exit codes: 0 every pod is ready; 1 a pod does not become ready; 2 nothing
was changed; 3 the cluster can't be reached."""
)
@models_argument
@fleet_option
@overlay_option
@context_option
@click.option("--dry-run", is_flag=True, help="Let the cluster check the manifests, and change nothing.")
@wait_option
def apply(
    names: tuple[str, ...], fleet: Path, overlays: tuple[str, ...], context: str | None, dry_run: bool, wait: float
) -> None:
    """Run the models on a cluster; wait until every pod is ready."""
    from tfserving.k8s import deployment
    from tfserving.k8s.names import Names
    from tfserving.serving.engines import refuse
    from tfserving.serving.lint import problems

    with failing(WRONG), Progress() as progress:
        read, names, kubectl = read_fleet_with(fleet, names, context, overlays)
        refuse(problems(read, names), progress.line)
        progress.update("Checking the manifests")
        checked = deployment.check(read, names, kubectl)
    if dry_run:
        click.echo(checked.printed, nl=False)
        return
    try:
        with failing(FAILED), Progress() as progress:
            progress.update("Waiting for the pods")
            printed = deployment.apply(checked, Names.of(read), kubectl, wait, progress.line)
    except KeyboardInterrupt:
        click.echo("\nThe manifests are applied. Run the same command again to wait for the pods.", err=True)
        raise
    click.echo(printed, nl=False)
    click.echo(f"Every pod serves {', '.join(names)}.", err=True)


@click.command(
    epilog="""\b
Example:
  tfserving k8s diff

\b
Exit codes: 0 no difference; 1 differences; 2 wrong usage or models.yaml; 3
the cluster can't be reached."""
)
@models_argument
@fleet_option
@overlay_option
@context_option
def diff(names: tuple[str, ...], fleet: Path, overlays: tuple[str, ...], context: str | None) -> None:
    """Print what `apply` would change on the cluster."""
    from tfserving.k8s import deployment

    with failing(WRONG), Progress() as progress:
        read, names, kubectl = read_fleet_with(fleet, names, context, overlays)
        progress.update("Comparing the manifests with the cluster")
        found = deployment.difference(read, names, kubectl)
    click.echo(found, nl=False)
    sys.exit(1 if found else 0)


@click.command(
    epilog="""\b
Example:
  tfserving k8s delete"""
)
@fleet_option
@context_option
def delete(fleet: Path, context: str | None) -> None:
    """Delete everything that `apply` created.

    The command returns when the pods have drained. The namespace and the
    models stay.
    """
    from tfserving.k8s import deployment

    with failing(WRONG):
        read, _, kubectl = read_fleet_with(fleet, (), context)
        deployment.check_deletion(read, kubectl)
    with failing(FAILED), Progress() as progress:
        seconds = read.kubernetes.drain_seconds
        progress.update(f"Deleting the objects of namespace {kubectl.namespace}; pods drain for {seconds} s")
        printed = deployment.delete(read, kubectl)
    click.echo(printed or "Nothing to delete.\n", nl=False)


@click.command(
    epilog="""\b
Examples:
  tfserving k8s status
  tfserving k8s status --json"""
)
@fleet_option
@context_option
@direct_option
@json_option
def status(fleet: Path, context: str | None, direct: bool, as_json: bool) -> None:
    """Print the pods, what they serve, and the last rollouts.

    For a pod that isn't ready, the reason is printed.
    """
    from tfserving.k8s import deployment
    from tfserving.k8s.at_once import each
    from tfserving.k8s.names import Names
    from tfserving.k8s.rollout import overview
    from tfserving.k8s.rollout.cluster import ClusterStore

    with failing(WRONG), Progress() as progress:
        read, _, kubectl = read_fleet_with(fleet, (), context)
        kubectl = dataclasses.replace(kubectl, direct=direct)
        progress.update("Reading the cluster")
        ours = Names.of(read)
        found = kubectl.select("pods", ours.all_pods)
        # Pods differ in it during a rollout.
        served = {name: deployment.served(name, kubectl) for name in set(map(deployment.config_map_of, found))}
        pods = each(
            found,
            lambda pod, _: _pod(pod, read, served[deployment.config_map_of(pod)], kubectl),
            most=kubectl.at_once,
        )
        rollouts = [
            (state, not state.over and ClusterStore(kubectl, ours, state.model).held())
            for state in deployment.rollouts(ours, kubectl).values()
        ]
    if as_json:
        click.echo(json.dumps({"pods": pods, "rollouts": [overview.as_json(*one) for one in rollouts]}, indent=2))
        return
    for pod in pods:
        state = "terminating" if pod["terminating"] else "ready" if pod["ready"] else "not ready"
        click.echo(f"{pod['pod']}  {state}, {pod['restarts']} restarts")
        for name, model in pod["models"].items():
            versions = ", ".join(_shown(one) for one in model["versions"])
            labels = "".join(f", {label} → {version}" for label, version in model["labels"].items())
            default = f". Clients get {model['summary']}" if "summary" in model else ""
            click.echo(f"  {name}: {versions}{labels}{default}")
        if pod["trouble"]:
            click.echo(f"  {pod['trouble']}")
    if not pods:
        click.echo(f"No pods. Start them with `{recommended('k8s apply')}`.")
    for one in rollouts:
        click.echo(f"rollout of {overview.headline(*one)}")


def _pod(pod: Object, fleet: Fleet, served: Sequence[Served], kubectl: Kubectl) -> dict[str, Any]:
    """Return the status of a pod that was started with `served`."""
    from tfserving.k8s import pods
    from tfserving.k8s.pods import ready, running, trouble, warned

    terminating = "deletionTimestamp" in pod["metadata"]
    labels = {one.name: one.labels for one in served}
    models = pods.served(pod, labels, kubectl) if running(pod) and not terminating else {}
    return {
        "pod": pod["metadata"]["name"],
        "ready": ready(pod),
        "terminating": terminating,
        "restarts": sum(one["restartCount"] for one in pod["status"].get("containerStatuses", [])),
        "models": {one.name: _model(models[one.name], fleet, one, served) for one in served if one.name in models},
        "trouble": None if ready(pod) or terminating else trouble(pod, kubectl) or warned(pod, kubectl),
    }


def _model(found: pods.Served, fleet: Fleet, one: Served, served: Sequence[Served]) -> dict[str, Any]:
    """Return what a pod serves under a name, and which version requests without a version and a label get."""
    from tfserving.serving.served import newer_on_disk, summary, why

    versions = [
        {"version": one.version, "state": one.state, "error": f"{one.code}: {one.message}" if one.failed else None}
        for one in found.versions
    ]
    model: dict[str, Any] = {"versions": versions, "labels": dict(found.labels)}
    now = dataclasses.replace(one, labels=found.labels)
    if available := [version.version for version in found.versions if version.state == "AVAILABLE"]:
        model["clients_get"], model["because"] = max(available), why(fleet, now)
        model["newer_on_disk"] = newer_on_disk(fleet, now, max(available), served)
        model["summary"] = summary(fleet, now, max(available), served)
    return model


def _shown(version: dict[str, Any]) -> str:
    """Return a version's status as text."""
    error = f" ({printable(version['error'])})" if version["error"] else ""
    return f"version {version['version']} {version['state']}{error}"
