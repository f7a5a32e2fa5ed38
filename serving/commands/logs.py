"""`serve logs`: the log of a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.options import fleet_option
from tfserving.serving.commands.failures import before_it_starts, while_it_runs
from tfserving.serving.commands.options import PORT

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.running import Running


@click.command(
    epilog="""\b
Examples:
  tfserving serve logs --tail 20
  tfserving serve logs --follow --port 9500"""
)
@fleet_option
@click.option("--port", type=PORT, metavar="PORT", help="The gRPC port of the server, if several run.")
@click.option("--follow", "-f", is_flag=True, help="Print new lines until Ctrl-C or the end of the server.")
@click.option("--tail", type=click.IntRange(min=0), metavar="LINES", help="Print only the last lines.")
def logs(fleet: Path, port: int | None, follow: bool, tail: int | None) -> None:
    """Print the log of a running server.

    The log of `serve` is removed with its server. The log of a container
    stays until the container is removed.
    """
    from tfserving.serving import server_log
    from tfserving.serving.docker import deployment
    from tfserving.serving.models_yaml.fleet import read_fleet
    from tfserving.serving.running import NOTE, config_folder, process_is_alive

    with before_it_starts():
        read = read_fleet(fleet)
        server = _one(read, port)
    with while_it_runs():
        if server.container is not None:
            texts = deployment.logs(server.container, follow=follow, tail=tail)
        else:
            folder = config_folder(read, server.engine, server.grpc_port).parent

            def alive() -> bool:
                return (folder / NOTE).is_file() and process_is_alive(server.pid)

            texts = server_log.read(folder, follow=follow, tail=tail, alive=alive)
        for text in texts:
            click.echo(text, nl=False)


def _one(fleet: Fleet, port: int | None) -> Running:
    """Return the fleet's only server, or the one with gRPC on `port`. Raises EngineError."""
    from tfserving.serving.docker import deployment
    from tfserving.serving.engines import EngineError, UnreachableError
    from tfserving.serving.running import running

    servers = running(fleet, deployment.exists)
    if not servers:
        raise UnreachableError(
            f"no server of {fleet.file} is running. Start one with `{typed('serve', fleet=fleet.file)}`"
        )
    found = [server for server in servers if port in (None, server.grpc_port)]
    listed = ", ".join(f"the {server.title}" for server in found or servers)
    if not found:
        raise EngineError(f"no server of {fleet.file} has gRPC on port {port}. Running: {listed}")
    if len(found) > 1:
        raise EngineError(f"{len(found)} servers of {fleet.file} are running: {listed}. Choose one with --port")
    return found[0]
