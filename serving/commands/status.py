"""`serve status`: the state and the labels of every version on the servers."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.clients.commands.calls import Target, optional_server_options
from tfserving.foundation.command.errors import FAILED, UNREACHABLE, WRONG, CommandError
from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.options import fleet_option, json_option, models_argument
from tfserving.foundation.labels import CANARY, STABLE
from tfserving.serving.commands.failures import before_it_starts, while_it_runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tfserving.foundation.gpus import Gpu
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.running import Running


@click.command(
    epilog="""\b
Examples:
  tfserving serve status
  tfserving serve status digits --server grpc://10.0.0.7:8500

\b
Exit codes: 0 every model is available on every server, 1 one is not,
3 no server is running or the server can't be reached."""
)
@models_argument
@fleet_option
@optional_server_options
@json_option
def status(*, names: tuple[str, ...], fleet: Path, target: Target | None, as_json: bool) -> None:
    """List the servers and the state and labels of their versions.

    Without --server, these are the servers of models.yaml that run on this
    machine. Each loaded version has the digest of its manifest, and who signed
    it if models.yaml has `trust`. With --server and MODEL, no models.yaml is needed.
    """
    if target is not None:
        _show_one(target, names, fleet, as_json=as_json)
        return
    from tfserving.foundation.gpus import all_gpus
    from tfserving.serving.docker import deployment
    from tfserving.serving.models_yaml.fleet import read_fleet
    from tfserving.serving.running import running

    with before_it_starts():
        read = read_fleet(fleet)
        names = read.select(names)
    with while_it_runs():
        gpus = all_gpus()
        servers = [_describe(read, server, names, gpus) for server in running(read, deployment.exists)]
    if as_json:
        click.echo(json.dumps({"servers": servers}, indent=2))
    else:
        for server in servers:
            _show(server, device=bool(gpus))
    if not servers:
        start = typed("serve", fleet=read.file)
        raise CommandError(f"no server of {read.file} is running. Start one with `{start}`", UNREACHABLE)
    if not all(server["available"] for server in servers):
        click.get_current_context().exit(FAILED)


def labels_of(fleet: Path, names: Sequence[str], more: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the labels to look up on a server: stable, canary, `more`, and those of models.yaml, if it can be read."""
    found = [STABLE, CANARY, *more]
    # A server may be looked at without a models.yaml, and without what reads it.
    with contextlib.suppress(ModuleNotFoundError):
        from tfserving.serving.models_yaml.fleet import FleetError, read_fleet

        with contextlib.suppress(FleetError):
            models = read_fleet(fleet).models
            found += [label for name in names if name in models for label in models[name].labels]
    return tuple(dict.fromkeys(found))


def models_of(fleet: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return `names`, or the models of models.yaml. Raises CommandError when there are neither."""
    if names:
        return names
    if not fleet.is_file():
        raise CommandError("TensorFlow Serving doesn't list its models. Name a MODEL, or use --fleet FILE", WRONG)
    from tfserving.serving.models_yaml.fleet import read_fleet

    with before_it_starts():
        return tuple(read_fleet(fleet).models)


def _show_one(target: Target, names: tuple[str, ...], fleet: Path, *, as_json: bool) -> None:
    """Print the models that a server has, whatever started it."""
    from tfserving.clients.errors import NotFound
    from tfserving.clients.labels import versions_by_label
    from tfserving.serving.model_state import lines, model_state

    names = models_of(fleet, names)
    models: dict[str, Any] = {}
    with target.connected() as client:
        for name in names:
            try:
                found = client.status(name)
                labels = versions_by_label(client, name, labels_of(fleet, (name,)))
                models[name] = model_state(found, labels)
            except NotFound as error:
                models[name] = {"available": False, "error": str(error)}
    available = all(model["available"] for model in models.values())
    if as_json:
        click.echo(json.dumps({"servers": [{"url": target.url, "models": models, "available": available}]}, indent=2))
    else:
        for line in lines(models):
            click.echo(line)
    if not available:
        click.get_current_context().exit(FAILED)


def _describe(fleet: Fleet, server: Running, names: Sequence[str], gpus: tuple[Gpu, ...]) -> dict[str, Any]:
    """Return one server, its container if it has one, its GPUs among `gpus`, and its models among `names`."""
    from tfserving.serving.commands.devices import gpus_of
    from tfserving.serving.docker import deployment
    from tfserving.serving.engines import address
    from tfserving.serving.server_gpus import device_text
    from tfserving.serving.states import states

    described: dict[str, Any] = {
        "engine": server.engine,
        "grpc": address(server.host, server.grpc_port),
        "rest": f"http://{address(server.host, server.rest_port)}",
    }
    if server.container:
        described |= deployment.describe(server.container)
    own = gpus_of(server, gpus)
    described |= {"device": device_text(own), "gpus": None if own is None else [gpu.as_json() for gpu in own]}
    served, models = states(fleet, server)
    shown = [one for one in served if one.model in names or one.model not in fleet.models]
    # As in the health check, a canary that fails is no failure of the server.
    available = all(models[one.name]["available"] for one in shown if not one.is_canary)
    return described | {"models": {one.name: models[one.name] for one in shown}, "available": available}


def _show(server: Mapping[str, Any], *, device: bool) -> None:
    """Print one server, with its `device` where there is a choice."""
    from tfserving.serving.model_state import lines

    if "container" in server:
        state = f"{server['state']}, {server['health'] or 'no health check'}"
        click.echo(f"{server['container']}  {server['image']}  {state}")
        for reason in server["ended"]:
            click.echo(f"  ended before: {reason}")
    else:
        click.echo(f"the {server['engine']} server")
    click.echo(f"  gRPC  {server['grpc']}\n  REST  {server['rest']}")
    if device:
        click.echo(f"  Device  {server['device']}")
    for line in lines(server["models"]):
        click.echo(f"  {line}")
