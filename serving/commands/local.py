"""`fleet`, `check`, `run` and `example`: the fleet, and a server that lives as long as its command."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from tfserving.foundation.command.options import fleet_option, json_option, models_argument, wait_option
from tfserving.serving.commands.options import Refusals, banner, say, server_options, smallest_request

if TYPE_CHECKING:
    from tfserving.serving.engines import Server


@click.command("fleet")
@models_argument
@fleet_option
@json_option
@click.option("--folders", is_flag=True, help="The models' folders alone, one a line; each must have a version.")
def list_fleet(names: tuple[str, ...], fleet: Path, as_json: bool, folders: bool) -> None:
    """Lists the fleet's models, or the MODELs named, and the versions that are on disk."""
    from tfserving.serving.engines import check_versions
    from tfserving.serving.models_yaml.fleet import read_fleet

    with Refusals():
        read = read_fleet(fleet)
        if folders:
            check_versions(read, read.select(names))
        models: list[dict[str, Any]] = [
            {"name": name, "folder": str(read.model_folder(name)), "versions": read.versions(name)}
            for name in read.select(names)
        ]
    if as_json:
        click.echo(json.dumps({"models": models}, indent=2))
    elif folders:
        for model in models:
            click.echo(model["folder"])
    else:
        for model in models:
            versions = ", ".join(map(str, model["versions"])) or "not exported yet"
            click.echo(f"{model['name']}  {model['folder']}  {versions}")


@click.command()
@server_options
def check(names: tuple[str, ...], fleet: Path, engine: str, host: str, port: int, rest_port: int) -> None:
    """Checks what `run` needs before anything is made: models.yaml, the ports and the engine.

    Prints the engine that `run` takes. An image that isn't on this machine is pulled.
    """
    from tfserving.serving import engines
    from tfserving.serving.engines.choice import choose
    from tfserving.serving.lint import settings_problems
    from tfserving.serving.models_yaml.fleet import read_fleet

    with Refusals():
        read = read_fleet(fleet)
        engines.refuse(settings_problems(read), lambda _: None)
        engines.check(engines.Plan(read, read.select(names), host, port, rest_port))
        chosen = choose(engine, read, say)
    click.echo(chosen.name)


@click.command(
    epilog="""\b
Examples:
  tfserving serve run                                     the whole fleet, gRPC on 8500 and REST on 8501
  tfserving serve run digits --engine embedded --port 9500 --rest-port 9501
  tfserving serve run --host 0.0.0.0                      let other machines in"""
)
@server_options
@wait_option
def run(names: tuple[str, ...], fleet: Path, engine: str, host: str, port: int, rest_port: int, wait: float) -> None:
    """Serves the fleet, or the MODELs named, until Ctrl-C or SIGTERM.

    Starts a server, waits until every model is available over gRPC and REST, and says where it listens. A model that
    fails to load, a port that is taken: an error, and nothing is left running.
    """
    from tfserving.serving import engines
    from tfserving.serving.engines.choice import choose
    from tfserving.serving.engines.exit_codes import meaning
    from tfserving.serving.lint import problems
    from tfserving.serving.models_yaml.fleet import read_fleet

    with Refusals():
        read = read_fleet(fleet)
        plan = engines.Plan(read, read.select(names), host, port, rest_port, whole=not names)
        engines.check(plan)
        chosen = choose(engine, read, say)
        engines.refuse(problems(read, plan.names, container=chosen.name == "docker", engine=chosen.name), say)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    server, ready = None, False
    try:
        say(f"Starting the {chosen.name} server for {', '.join(plan.names)} …")
        server = chosen.start(plan)
        versions = server.wait_until_ready(wait)
        ready = True
        click.echo(banner(plan, chosen.name, versions, "Ctrl-C stops it."))
        code = server.wait()
        click.echo(f"Error: the {chosen.name} server ended by itself: {meaning(code)}", err=True)
        sys.exit(1)
    except engines.EngineError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        if server is None or not ready:
            click.echo("\nStopped before it served.", err=True)
            sys.exit(130)
        _drain(server)
    finally:
        if server:
            server.stop()


def _drain(server: Server) -> None:
    """Drains and ends a server; a second Ctrl-C ends it at once."""
    click.echo("\nDraining; Ctrl-C again stops it at once …", err=True)
    try:
        code = server.stop()
    except KeyboardInterrupt:
        server.kill()
        click.echo("\nStopped at once; requests in flight are cut off.", err=True)
        sys.exit(130)
    click.echo("Stopped." if code in (0, -signal.SIGTERM) else f"Stopped; exit code {code}.", err=True)


@click.command(
    epilog="""\b
Example:
  tfserving serve example digits > body.json
  curl -s -d @body.json http://127.0.0.1:8501/v1/models/digits:predict"""
)
@click.argument("name", metavar="MODEL")
@fleet_option
def example(name: str, fleet: Path) -> None:
    """Prints a request for MODEL, as the body of a REST predict: a golden request of the version that clients get.

    That is the version with the label `stable` in models.yaml, else the newest.
    """
    from tfserving.serving import engines
    from tfserving.serving.models_yaml.fleet import read_fleet

    with Refusals():
        read = read_fleet(fleet)
        engines.check_versions(read, read.select((name,)))
        click.echo(smallest_request(read, name, (read.kept(name) or read.versions(name))[-1]))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
