"""The command `python -m serving`: runs a model server over the fleet."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from serving.engines import Plan
    from serving.fleet import Fleet

# What is not click is imported by the commands that use it, so that help comes at once.

ENGINE_NAMES = ("auto", "docker", "native", "embedded")
# A query to paste should fit a screen; a model with larger inputs shows the command that makes one.
LONGEST_QUERY = 2000

fleet_option = click.option(
    "--fleet",
    type=click.Path(path_type=Path),
    default=Path("models.yaml"),
    show_default=True,
    help="The file that says which models there are.",
)


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of the commands that start a server, or check that one could start."""
    for option in reversed(
        (
            click.argument("names", nargs=-1, metavar="[MODEL]..."),
            fleet_option,
            click.option(
                "--engine",
                type=click.Choice(ENGINE_NAMES),
                default="auto",
                show_default=True,
                help="What runs the server; auto takes the first usable of docker, native and embedded.",
            ),
            click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on."),
            click.option("--port", type=click.IntRange(1, 65535), default=8500, show_default=True, help="gRPC's port."),
            click.option(
                "--rest-port", type=click.IntRange(1, 65535), default=8501, show_default=True, help="REST's port."
            ),
        )
    ):
        command = option(command)
    return command


@click.group(
    epilog="""\b
Examples:
  python -m serving run                       the whole fleet, on the best engine there is
  python -m serving run digits --port 9500    one model, gRPC on another port
  python -m serving fleet --json              what models.yaml comes to

\b
Exit codes: 0 done, or a server stopped by Ctrl-C or SIGTERM; 1 a server did not become ready, or ended by
itself; 2 something was wrong before anything started: the usage, models.yaml, the engine, a port."""
)
def main() -> None:
    """Runs a TensorFlow model server over the models of models.yaml."""


@main.command("fleet")
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@fleet_option
@click.option("--json", "as_json", is_flag=True, help="As JSON, on stdout.")
@click.option("--folders", is_flag=True, help="The models' folders alone, one a line; each must have a version.")
def list_fleet(names: tuple[str, ...], fleet: Path, as_json: bool, folders: bool) -> None:
    """Lists the fleet's models, or the MODELs named, and the versions that are on disk."""
    from serving.engines import check_versions
    from serving.fleet import read_fleet

    with _Refusals():
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


@main.command()
@server_options
def check(names: tuple[str, ...], fleet: Path, engine: str, host: str, port: int, rest_port: int) -> None:
    """Checks what `run` needs before anything is made: models.yaml, the engine and the ports."""
    from serving import engines
    from serving.engines.choice import choose
    from serving.fleet import read_fleet

    with _Refusals():
        read = read_fleet(fleet)
        choose(engine)
        engines.check(engines.Plan(read, read.select(names), host, port, rest_port))


@main.command(
    epilog="""\b
Examples:
  python -m serving run                                     the whole fleet, gRPC on 8500 and REST on 8501
  python -m serving run digits --engine embedded --port 9500 --rest-port 9501
  python -m serving run --host 0.0.0.0                      let other machines in"""
)
@server_options
@click.option(
    "--wait", type=click.FloatRange(min=1), default=180.0, show_default=True, help="Seconds for all models to load."
)
def run(names: tuple[str, ...], fleet: Path, engine: str, host: str, port: int, rest_port: int, wait: float) -> None:
    """Serves the fleet, or the MODELs named, until Ctrl-C or SIGTERM.

    Starts a server, waits until every model is available over gRPC and REST, and says where it listens. A model that
    fails to load, a port that is taken: an error, and nothing is left running.
    """
    from serving import engines
    from serving.engines.choice import choose
    from serving.fleet import read_fleet

    with _Refusals():
        read = read_fleet(fleet)
        chosen = choose(engine)
        plan = engines.Plan(read, read.select(names), host, port, rest_port)
        engines.check(plan)
        engines.check_versions(read, plan.names)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    server = None
    try:
        click.echo(f"Starting the {chosen.name} server for {', '.join(plan.names)} …", err=True)
        server = chosen.start(plan)
        versions = server.wait_until_ready(wait)
        click.echo(_banner(plan, chosen.name, versions))
        code = server.wait()
        click.echo(f"Error: the {chosen.name} server ended by itself, exit code {code}", err=True)
        sys.exit(1)
    except engines.EngineError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        click.echo("\nDraining …", err=True)
        code = server.stop() if server else 0
        click.echo("Stopped." if code in (0, -signal.SIGTERM) else f"Stopped; exit code {code}.", err=True)
    finally:
        if server:
            server.stop()


@main.command(
    epilog="""\b
Example:
  python -m serving example digits > body.json
  curl -s -d @body.json http://127.0.0.1:8501/v1/models/digits:predict"""
)
@click.argument("name", metavar="MODEL")
@fleet_option
def example(name: str, fleet: Path) -> None:
    """Prints a request for MODEL: the first golden request of its newest version, as the body of a REST predict."""
    from serving import engines
    from serving.fleet import read_fleet

    with _Refusals():
        read = read_fleet(fleet)
        engines.check_versions(read, read.select((name,)))
        click.echo(_example(read, name, read.versions(name)[-1]))


class _Refusals:
    """What a user got wrong, found before anything started, ends the command with its error and exit code 2."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from clients.golden import GoldenError
        from serving.engines import EngineError
        from serving.fleet import FleetError

        if isinstance(error, (FleetError, EngineError, GoldenError)):
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _banner(plan: Plan, engine: str, versions: dict[str, int]) -> str:
    """What `run` prints once every model is available."""
    width = max(map(len, versions))
    name, version = next(iter(versions.items()))
    body = _example(plan.fleet, name, version)
    if len(body) > LONGEST_QUERY:
        body = f"$(python -m serving example {name})"
    return "\n".join(
        [
            f"Serving {len(versions)} model{'s' * (len(versions) > 1)} with the {engine} server:",
            *(f"  {name:<{width}}  version {version}" for name, version in versions.items()),
            f"gRPC  {plan.grpc_address}",
            f"REST  http://{plan.rest_address}",
            "Ask it, in another shell:",
            f"  make query MODEL={name} PORT={plan.grpc_port}",
            f"  curl -s -d '{body}' http://{plan.rest_address}/v1/models/{name}:predict",
            "Ctrl-C stops it.",
        ]
    )


def _example(fleet: Fleet, name: str, version: int) -> str:
    """The smallest golden request of a version's first signature, as the JSON of a REST predict."""
    from clients.golden import read_golden
    from clients.rest_json import predict_request

    request = read_golden(fleet.model_folder(name) / str(version)).requests[0]
    return predict_request(request.signature, request.inputs).decode()
