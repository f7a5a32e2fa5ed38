"""The command `python -m serving`: runs a model server over the fleet."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click

from serving.fleet import FleetError, read_fleet

# click imports quickly; the engines bring grpcio and numpy with them and wait until a command needs them.
ENGINE_NAMES = ("auto", "docker", "native", "embedded")
QUERY_CHARACTERS = 2000

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
Exit codes: 0 done, or a server stopped by Ctrl-C or SIGTERM; 1 a server could not start or ended by itself;
2 wrong usage, a wrong models.yaml or an engine that can't be used here."""
)
def main() -> None:
    """Runs a TensorFlow model server over the models of models.yaml."""


@main.command()
@fleet_option
@click.option("--json", "as_json", is_flag=True, help="As JSON, on stdout.")
@click.option("--folders", is_flag=True, help="The models' folders alone, one a line.")
def fleet(fleet: Path, as_json: bool, folders: bool) -> None:
    """Lists the fleet's models and the versions that are on disk."""
    with _Refusals():
        read = read_fleet(fleet)
        models: list[dict[str, Any]] = [
            {"name": name, "folder": str(read.model_folder(name)), "versions": read.versions(name)}
            for name in read.models
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

    with _Refusals():
        read = read_fleet(fleet)
        choose(engine)
        engines.check(engines.Plan(read, read.select(names), host, port, rest_port))


@main.command()
@server_options
@click.option(
    "--wait", type=click.FloatRange(min=1), default=180.0, show_default=True, help="Seconds for all models to load."
)
def run(names: tuple[str, ...], fleet: Path, engine: str, host: str, port: int, rest_port: int, wait: float) -> None:
    """Serves the fleet, or the MODELs named, until Ctrl-C or SIGTERM.

    Starts a server, waits until every model is available over gRPC and REST, and says where it listens. A model that
    fails to load, a port that is taken: an error, exit code 1, and nothing is left running.
    """
    from serving import engines
    from serving.engines.choice import choose

    with _Refusals():
        read = read_fleet(fleet)
        chosen = choose(engine)
        plan = engines.Plan(read, read.select(names), host, port, rest_port)
        engines.check(plan)
        engines.check_versions(plan)
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


class _Refusals:
    """What a user got wrong ends the command with one error and exit code 2, or 1 for a taken port."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from serving.engines import EngineError

        if isinstance(error, (FleetError, EngineError)):
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _banner(plan: Any, engine: str, versions: dict[str, int]) -> str:
    """What `run` prints once every model is available."""
    width = max(map(len, versions))
    return "\n".join(
        [
            f"Serving {len(versions)} model{'s' * (len(versions) > 1)} with the {engine} server:",
            *(f"  {name:<{width}}  version {version}" for name, version in versions.items()),
            f"gRPC  {plan.grpc_address}",
            f"REST  http://{plan.rest_address}",
            *(_query(plan, versions)),
            "Ctrl-C stops it.",
        ]
    )
