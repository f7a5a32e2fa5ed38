"""`compose`: a server with Prometheus, Grafana and a proxy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from tfserving.foundation.command.group import Group
from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.options import fleet_option, models_argument, wait_option
from tfserving.foundation.command.progress import Progress
from tfserving.serving.commands.banner import banner
from tfserving.serving.commands.failures import before_it_starts, while_it_runs
from tfserving.serving.commands.missing import export_missing, without_version
from tfserving.serving.commands.options import changing_fleet, export_option, port_options, say


@click.group(
    cls=Group,
    epilog="""\b
Examples:
  tfserving compose up
  tfserving compose down
  tfserving compose render deployment    files for a machine without tfserving""",
)
def compose() -> None:
    """Run a server with Prometheus and Grafana.

    Images, ports, and a proxy for TLS and traffic splits are set under
    `compose:` in models.yaml.
    """


@compose.command(
    epilog="""\b
Examples:
  tfserving compose up
  tfserving compose up digits --host 0.0.0.0"""
)
@models_argument
@fleet_option
@port_options
@export_option
@wait_option
def up(names: tuple[str, ...], fleet: Path, host: str, port: int, rest_port: int, no_export: bool, wait: float) -> None:
    """Start all services.

    Returns when every model is available and every service responds. Services
    that run are restarted only if their settings have changed.
    """
    from tfserving.serving import admitted, engines
    from tfserving.serving.compose import project
    from tfserving.serving.docker import daemon
    from tfserving.serving.lint import problems, settings_problems
    from tfserving.serving.models_yaml.fleet import read_fleet

    with changing_fleet(fleet, wait):
        with before_it_starts():
            read = read_fleet(fleet)
            plan = engines.Plan(read, read.select(names), host, port, rest_port, whole=not names)
            engines.refuse([*settings_problems(read), *project.problems(plan)], lambda _: None)
            missing = without_version(read, plan.names, export=not no_export)
            daemon.require()
            project.command()
            project.check_ports(plan)
            export_missing(read, missing)
            engines.refuse(problems(read, plan.names), say)
            with Progress() as progress:
                plan = dataclasses.replace(plan, fleet=admitted.admitted_for(read, plan.names, progress.update))
        with while_it_runs(), Progress() as progress:
            progress.update("Waiting for the services")
            versions = project.up(plan, wait, progress)
    with while_it_runs():
        last = [f"Prometheus  http://{engines.address(host, read.compose.prometheus_port)}"]
        if read.compose.grafana:
            last.append(f"Grafana  http://{engines.address(host, read.compose.grafana_port)}")
        if read.compose.envoy:
            last.append(f"REST with TLS  https://{engines.address(host, read.compose.envoy.port)}")
        last.append(f"`{typed('compose down', fleet=read.file)}` stops it.")
        click.echo(banner(plan, "compose", versions, last))


@compose.command(
    epilog="""\b
Example:
  tfserving compose down"""
)
@fleet_option
def down(fleet: Path) -> None:
    """Drain the server and remove all services and their metrics."""
    from tfserving.serving import admitted
    from tfserving.serving.compose import project
    from tfserving.serving.docker import daemon
    from tfserving.serving.models_yaml.fleet import read_fleet

    with before_it_starts():
        read = read_fleet(fleet)
        daemon.require()
    with while_it_runs(), Progress() as progress:
        progress.update("Draining")
        found = project.down(read, progress)
        admitted.clean(read)
    say("Stopped." if found else f"No services of {read.file} are up.")


@compose.command(
    epilog="""\b
Example:
  tfserving compose render deployment
  cd deployment && TFSERVING_MODELS=/srv/models docker compose up --detach"""
)
@click.argument("folder", type=click.Path(path_type=Path))
@fleet_option
@port_options
@wait_option
def render(folder: Path, fleet: Path, host: str, port: int, rest_port: int, wait: float) -> None:
    """Write compose.yaml and the files that it mounts to FOLDER.

    FOLDER must not exist. Copy it and the folder of the models to a machine
    with Docker. FOLDER may contain a private key, so only you can read it.
    It is refused if models.yaml has `trust`, which nothing checks there.
    """
    from tfserving.serving import engines
    from tfserving.serving.compose import files, project
    from tfserving.serving.lint import problems
    from tfserving.serving.models_yaml.fleet import read_fleet

    with before_it_starts():
        read = read_fleet(fleet)
        if read.trust:
            raise engines.EngineError(
                "trust: nothing would check the models on the other machine. Build an image that contains them, with "
                f"`{typed('image', fleet=read.file)}`, or install the toolkit there and run `tfserving compose up`"
            )
        plan = engines.Plan(read, read.select(()), host, port, rest_port)
        engines.refuse([*problems(read, plan.names), *project.problems(plan)], say)
        if folder.exists():
            raise engines.EngineError(f"{folder} exists. Name a folder that does not exist")
        if not folder.absolute().parent.is_dir():
            raise engines.EngineError(f"the folder {folder.absolute().parent} does not exist")
        made = files.rendered(plan, wait, folder)
    with while_it_runs():
        files.write_new(folder, made)
    click.echo(str(folder / files.COMPOSE))
