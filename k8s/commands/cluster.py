"""`render`, `apply`, `diff`, `delete` and `status`: the fleet on a cluster."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.foundation.command.options import fleet_option, models_argument, wait_option
from tfserving.k8s.commands.errors import Errors
from tfserving.serving.commands.options import say

if TYPE_CHECKING:
    from tfserving.k8s import pods
    from tfserving.k8s.kubectl import Kubectl, Object
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.served import Served

_overlay = click.option(
    "--overlay",
    "overlays",
    multiple=True,
    metavar="NAME",
    help="A component of k8s/components, in place of those that models.yaml names; several may be given.",
)
_context = click.option("--context", help="kubectl's context; the current one when not given.")


@click.command(
    epilog="""\b
Examples:
  tfserving k8s render                                         the manifests of the fleet
  tfserving k8s render --overlay volume --overlay monitoring   with these components"""
)
@models_argument
@fleet_option
@_overlay
def render(names: tuple[str, ...], fleet: Path, overlays: tuple[str, ...]) -> None:
    """Prints the manifests that models.yaml comes to; `kubernetes:` in it says how the fleet is to run."""
    from tfserving.k8s import rendering

    with Errors(2):
        read, names, kubectl = _read(fleet, names, None, overlays)
        click.echo(rendering.render(read, names, kubectl), nl=False)


@click.command(
    epilog="""\b
Examples:
  tfserving k8s apply --dry-run    the cluster checks all, and nothing changes
  tfserving k8s apply

\b
Exit codes: 0 every pod is ready; 1 one does not come up, for the reason that is printed; 2 something was wrong
before anything changed."""
)
@models_argument
@fleet_option
@_overlay
@_context
@click.option("--dry-run", is_flag=True, help="Have the cluster check the manifests, and change nothing.")
@wait_option
def apply(
    names: tuple[str, ...], fleet: Path, overlays: tuple[str, ...], context: str | None, dry_run: bool, wait: float
) -> None:
    """Runs the fleet, or the MODELs named, on a cluster, and returns when every pod is ready."""
    from tfserving.k8s import deployment
    from tfserving.serving.engines import refuse
    from tfserving.serving.lint import problems

    with Errors(2):
        read, names, kubectl = _read(fleet, names, context, overlays)
        refuse(problems(read, names), say)
    with Errors(1):
        click.echo(deployment.apply(read, names, kubectl, wait, say, dry=dry_run), nl=False)
        if not dry_run:
            say(f"Every pod serves {', '.join(names)}.")


@click.command(
    epilog="""\b
Examples:
  tfserving k8s diff

\b
Exit codes: 0 it would change nothing; 1 it would change what is printed; 2 something was wrong."""
)
@models_argument
@fleet_option
@_overlay
@_context
def diff(names: tuple[str, ...], fleet: Path, overlays: tuple[str, ...], context: str | None) -> None:
    """Shows what `apply` would change on the cluster."""
    from tfserving.k8s import deployment

    with Errors(2):
        read, names, kubectl = _read(fleet, names, context, overlays)
        said = deployment.difference(read, names, kubectl)
    click.echo(said, nl=False)
    sys.exit(1 if said else 0)


@click.command(
    epilog="""\b
Example:
  tfserving k8s delete"""
)
@fleet_option
@_context
def delete(fleet: Path, context: str | None) -> None:
    """Removes all that `apply` made from the cluster; models and namespace stay."""
    from tfserving.k8s import deployment

    with Errors(1):
        read, _, kubectl = _read(fleet, (), context)
        click.echo(deployment.delete(read, kubectl) or "Nothing is there.\n", nl=False)


@click.command(
    epilog="""\b
Examples:
  tfserving k8s status
  tfserving k8s status --json"""
)
@fleet_option
@_context
@click.option("--json", "as_json", is_flag=True, help="As JSON, on stdout.")
def status(fleet: Path, context: str | None, as_json: bool) -> None:
    """Shows every pod, whether it is ready, and why not; what it serves; and the last rollout of each model."""
    from tfserving.k8s import deployment
    from tfserving.k8s.names import INSTANCE, NAME
    from tfserving.k8s.rollout import overview
    from tfserving.k8s.rollout.cluster import ClusterStore

    with Errors(1):
        read, _, kubectl = _read(fleet, (), context)
        served = deployment.served(kubectl)
        pods = [_said(pod, read, served, kubectl) for pod in kubectl.select("pods", f"{INSTANCE}={NAME}")]
        rollouts = [
            (state, not state.over and ClusterStore(kubectl, state.model).held())
            for state in deployment.rollouts(kubectl).values()
        ]
    if as_json:
        click.echo(json.dumps({"pods": pods, "rollouts": [overview.as_json(*one) for one in rollouts]}, indent=2))
        return
    for pod in pods:
        state = "leaving" if pod["leaving"] else "ready" if pod["ready"] else "not ready"
        click.echo(f"{pod['pod']}  {state}, {pod['restarts']} restarts")
        for name, model in pod["models"].items():
            named = "".join(f", {label} → {version}" for label, version in model["labels"].items())
            get = f". Clients get {model['summary']}" if "summary" in model else ""
            click.echo(f"  {name}: {', '.join(model['versions'])}{named}{get}")
        if pod["trouble"]:
            click.echo(f"  {pod['trouble']}")
    if not pods:
        click.echo("No pods; `tfserving k8s apply` makes them.")
    for one in rollouts:
        click.echo(f"rollout of {overview.headline(*one)}")


def _said(pod: Object, fleet: Fleet, served: Sequence[Served], kubectl: Kubectl) -> dict[str, Any]:
    """What there is to say of a pod, which was started with `served`."""
    from tfserving.k8s import pods
    from tfserving.k8s.pods import ready, running, trouble, warned

    leaving = "deletionTimestamp" in pod["metadata"]
    asked = {one.name: one.labels for one in served}
    models = pods.served(pod, asked, kubectl) if running(pod) and not leaving else {}
    return {
        "pod": pod["metadata"]["name"],
        "ready": ready(pod),
        "leaving": leaving,
        "restarts": sum(one["restartCount"] for one in pod["status"].get("containerStatuses", [])),
        "models": {one.name: _model(models[one.name], fleet, one, served) for one in served if one.name in models},
        "trouble": None if ready(pod) or leaving else trouble(pod, kubectl) or warned(pod, kubectl),
    }


def _model(found: pods.Served, fleet: Fleet, one: Served, served: Sequence[Served]) -> dict[str, Any]:
    """What a pod serves under a name, and what clients get that give neither version nor label."""
    from tfserving.serving.served import newer_on_disk, summary, why

    model: dict[str, Any] = {"versions": [str(version) for version in found.versions], "labels": dict(found.labels)}
    now = dataclasses.replace(one, labels=found.labels)
    if available := [version.version for version in found.versions if version.state == "AVAILABLE"]:
        model["clients_get"], model["because"] = max(available), why(fleet, now)
        model["newer_on_disk"] = newer_on_disk(fleet, now, max(available), served)
        model["summary"] = summary(fleet, now, max(available), served)
    return model


def _read(
    path: Path, names: tuple[str, ...], context: str | None, overlays: tuple[str, ...] = ()
) -> tuple[Fleet, tuple[str, ...], Kubectl]:
    from pydantic import ValidationError

    from tfserving.k8s.kubectl import Kubectl
    from tfserving.serving.models_yaml.fleet import FleetError, read_fleet
    from tfserving.serving.models_yaml.kubernetes import Kubernetes

    read = read_fleet(path)
    if overlays:
        try:
            given = read.kubernetes.model_dump()
            # What models.yaml says of others is for when they are named.
            unused = {key for key in ("gateway", "object_store") if key.replace("_", "-") not in overlays}
            kept = {key: value for key, value in given.items() if key not in unused}
            said = Kubernetes.model_validate({**kept, "components": overlays})
        except ValidationError as error:
            reasons = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
            raise FleetError(f"--overlay {', '.join(overlays)}: {reasons}") from None
        read = read.model_copy(update={"kubernetes": said})
    return read, read.select(names), Kubectl(read.kubernetes.namespace, context, read.kubernetes.kubectl_seconds)
