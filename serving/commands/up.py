"""`serve up`, `down` and `restart`: a server in a container that stays."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.options import fleet_option, models_argument, wait_option
from tfserving.foundation.command.progress import Progress
from tfserving.serving.commands.banner import banner
from tfserving.serving.commands.failures import before_it_starts, while_it_runs
from tfserving.serving.commands.missing import export_missing, without_version
from tfserving.serving.commands.options import changing_fleet, export_option, port_options, say


@click.command(
    epilog="""\b
Examples:
  tfserving serve up
  tfserving serve up --fleet other/models.yaml --port 9500 --rest-port 9501"""
)
@models_argument
@fleet_option
@port_options
@export_option
@wait_option
def up(names: tuple[str, ...], fleet: Path, host: str, port: int, rest_port: int, no_export: bool, wait: float) -> None:
    """Start a server in a container that stays.

    The image, limits and GPUs are set under `server:` in models.yaml. A
    running server takes changed models, labels and versions. If anything else
    has changed, the container is replaced.
    """
    from tfserving.serving import admitted, engines
    from tfserving.serving.docker import daemon, deployment
    from tfserving.serving.lint import problems, settings_problems
    from tfserving.serving.models_yaml.fleet import read_fleet

    with changing_fleet(fleet, wait):
        with before_it_starts():
            read = read_fleet(fleet)
            plan = engines.Plan(read, read.select(names), host, port, rest_port, whole=not names)
            engines.refuse(settings_problems(read), lambda _: None)
            missing = without_version(read, plan.names, export=not no_export)
            daemon.require()
            deployment.check_ports(plan)
            export_missing(read, missing)
            engines.refuse(problems(read, plan.names), say)
            with Progress() as progress:
                plan = dataclasses.replace(plan, fleet=admitted.admitted_for(read, plan.names, progress.update))
        with while_it_runs(), Progress() as progress:
            progress.update("Waiting for the server")
            versions = deployment.up(plan, wait, progress)
    with while_it_runs():
        stop = typed("serve down", fleet=read.file)
        click.echo(banner(plan, "docker", versions, [f"`{stop}` stops it."]))


@click.command(
    epilog="""\b
Example:
  tfserving serve down"""
)
@fleet_option
def down(fleet: Path) -> None:
    """Drain the server and remove its container."""
    from tfserving.serving import admitted
    from tfserving.serving.docker import deployment
    from tfserving.serving.models_yaml.fleet import read_fleet

    with before_it_starts():
        read = read_fleet(fleet)
    with while_it_runs(), Progress() as progress:
        progress.update("Draining")
        found = deployment.down(read, progress)
        admitted.clean(read)
    say("Stopped." if found else f"No server of {read.file} is up.")


@click.command(
    epilog="""\b
Example:
  tfserving serve restart --wait 600"""
)
@fleet_option
@wait_option
def restart(fleet: Path, wait: float) -> None:
    """Drain the server and start it again."""
    from tfserving.serving import admitted, engines, running
    from tfserving.serving.docker import deployment
    from tfserving.serving.lint import problems
    from tfserving.serving.models_yaml.fleet import read_fleet

    with before_it_starts():
        read = read_fleet(fleet)
        note = deployment.note_of(read).following(read, read.models)
        note.check_trust(read)
        engines.refuse(problems(read, note.names), say)
        with Progress() as progress:
            copied = admitted.admitted_for(read, note.names, progress.update)
        plan = engines.Plan(copied, note.names, note.host, note.grpc_port, note.rest_port, note.whole)
    with while_it_runs():
        with Progress() as progress:
            progress.update("Restarting")
            versions = deployment.restart(plan, wait, progress)
        running.note(read, note)
        stop = typed("serve down", fleet=read.file)
        click.echo(banner(plan, "docker", versions, [f"`{stop}` stops it."]))
