"""`up`, `down`, `status`, `logs` and `restart`: a server in a container that stays."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.foundation.command.options import fleet_option, json_option, models_argument, wait_option
from tfserving.serving.commands.options import Failures, Refusals, banner, changing_fleet, port_options, say

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.running import Running


@click.command(
    epilog="""\b
Examples:
  tfserving serve up                             the fleet of models.yaml, as `server:` there says
  tfserving serve up --fleet other/models.yaml --port 9500 --rest-port 9501

\b
Exit codes: 0 it is up; 1 it did not become ready, and nothing is left of it; 2 something was wrong before
anything started."""
)
@models_argument
@fleet_option
@port_options
@wait_option
def up(names: tuple[str, ...], fleet: Path, host: str, port: int, rest_port: int, wait: float) -> None:
    """Brings the fleet's server up in a container, and returns when every model is available.

    The image, limits, GPUs and the rest are what `server:` in models.yaml says. A server that is up already stays when
    nothing but models, labels and versions changed, which it takes while it runs; else it is replaced.
    """
    from tfserving.serving import engines
    from tfserving.serving.docker import daemon, deployment
    from tfserving.serving.lint import problems
    from tfserving.serving.models_yaml.fleet import read_fleet

    with changing_fleet(fleet, wait):
        with Refusals():
            read = read_fleet(fleet)
            daemon.require()
            plan = engines.Plan(read, read.select(names), host, port, rest_port, whole=not names)
            engines.refuse(problems(read, plan.names), say)
            deployment.check_ports(plan)
        with Failures():
            versions = deployment.up(plan, wait, say)
    with Failures():
        click.echo(banner(plan, "docker", versions, "`tfserving serve down` ends it."))


@click.command()
@fleet_option
def down(fleet: Path) -> None:
    """Drains the fleet's server and removes its container; nothing is left. Does nothing when none is up."""
    from tfserving.serving.docker import deployment

    with Failures():
        if not deployment.down(_read(fleet), say):
            say("No server is up.")


@click.command(
    epilog="""\b
Exit codes: 0 every model is available on every server of the fleet; 1 one isn't, or none runs; 2 wrong usage."""
)
@fleet_option
@json_option
def status(fleet: Path, as_json: bool) -> None:
    """Shows the fleet's servers that run, whatever engine runs them, and the state of every version there.

    Clients that give neither version nor label get the version that is named for each model, because it is `stable` or
    because it is the newest.
    """
    from tfserving.serving.docker import deployment
    from tfserving.serving.running import running

    with Failures():
        read = _read(fleet)
        servers = [_describe(read, server) for server in running(read, deployment.exists)]
    if as_json:
        click.echo(json.dumps({"servers": servers}, indent=2))
    else:
        for server in servers:
            _show(server)
        if not servers:
            say(f"No server of {read.file} runs.")
    sys.exit(0 if servers and all(server["available"] for server in servers) else 1)


@click.command()
@fleet_option
@click.option("--port", type=click.IntRange(1, 65535), help="gRPC's port of the server, where several run.")
@click.option("--follow", "-f", is_flag=True, help="Show new lines too, until Ctrl-C or the end of the server.")
@click.option("--tail", type=click.IntRange(min=0), help="Show only the last so many lines.")
def logs(fleet: Path, port: int | None, follow: bool, tail: int | None) -> None:
    """Shows what the fleet's server printed, whatever engine runs it.

    The log of `serve run` goes with its server. That of a container stays until the container is removed.
    """
    from tfserving.serving import server_log
    from tfserving.serving.docker import deployment
    from tfserving.serving.running import NOTE, config_folder, process_is_alive

    with Refusals():
        read = _read(fleet)
        server = _one(read, port)
    with Failures():
        if server.container is not None:
            texts = deployment.logs(server.container, follow=follow, tail=tail)
        else:
            folder = config_folder(read, server.engine, server.grpc_port).parent

            def alive() -> bool:
                return (folder / NOTE).is_file() and process_is_alive(server.pid)

            texts = server_log.read(folder, follow=follow, tail=tail, alive=alive)
        for text in texts:
            click.echo(text, nl=False)


@click.command()
@fleet_option
@wait_option
def restart(fleet: Path, wait: float) -> None:
    """Drains the fleet's container and starts it again, and returns when every model is available."""
    from tfserving.serving import engines, running
    from tfserving.serving.docker import deployment
    from tfserving.serving.lint import problems

    with Refusals():
        read = _read(fleet)
        note = deployment.note_of(read).following(read, read.models)
        plan = engines.Plan(read, note.names, note.host, note.grpc_port, note.rest_port, note.whole)
        engines.refuse(problems(read, plan.names), say)
    with Failures():
        versions = deployment.restart(plan, wait, say)
        running.note(read, note)
        click.echo(banner(plan, "docker", versions, "`tfserving serve down` ends it."))


def _one(fleet: Fleet, port: int | None) -> Running:
    """The fleet's server, the one on gRPC's `port` when that is given. Raises EngineError when it isn't one."""
    from tfserving.serving.docker import deployment
    from tfserving.serving.engines import EngineError
    from tfserving.serving.running import running

    servers = running(fleet, deployment.exists)
    if not servers:
        raise EngineError(
            f"no server of {fleet.file} runs; `tfserving serve up` starts one that stays, and `tfserving serve run` "
            "one that ends with its command"
        )
    found = [server for server in servers if port in (None, server.grpc_port)]
    listed = ", ".join(f"the {server.title}" for server in found or servers)
    if not found:
        raise EngineError(f"no server of {fleet.file} has gRPC on port {port}; running: {listed}")
    if len(found) > 1:
        raise EngineError(f"{len(found)} servers of {fleet.file} run: {listed}; choose one with --port")
    return found[0]


def _read(path: Path) -> Fleet:
    from tfserving.serving.models_yaml.fleet import read_fleet

    with Refusals():
        return read_fleet(path)


def _describe(fleet: Fleet, server: Running) -> dict[str, Any]:
    """One server, its container if it has one, and its models."""
    from tfserving.serving.docker import deployment
    from tfserving.serving.engines import address
    from tfserving.serving.states import states

    said: dict[str, Any] = {
        "engine": server.engine,
        "grpc": address(server.host, server.grpc_port),
        "rest": f"http://{address(server.host, server.rest_port)}",
    }
    if server.container:
        said |= deployment.describe(server.container)
    served, models = states(fleet, server)
    # As in the health check, a canary that fails is no failure of the server.
    available = all(models[one.name]["available"] for one in served if not one.is_canary)
    return said | {"models": models, "available": available}


def _show(server: dict[str, Any]) -> None:
    from tfserving.serving.states import lines

    if "container" in server:
        state = f"{server['state']}, {server['health'] or 'no health check'}"
        click.echo(f"{server['container']}  {server['image']}  {state}")
        for reason in server["ended"]:
            click.echo(f"  ended before: {reason}")
    else:
        click.echo(f"the {server['engine']} server")
    click.echo(f"  gRPC  {server['grpc']}\n  REST  {server['rest']}")
    for line in lines(server["models"]):
        click.echo(f"  {line}")
