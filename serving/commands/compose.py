"""`compose`: the server with Prometheus, Grafana and a proxy."""

from __future__ import annotations

from pathlib import Path

import click

from tfserving.foundation.command.options import fleet_option, models_argument, wait_option
from tfserving.serving.commands.options import Failures, Refusals, banner, changing_fleet, port_options, say


@click.group(
    epilog="""\b
Examples:
  tfserving serve compose up              the fleet of models.yaml, watched
  tfserving serve compose down
  tfserving serve compose render there    the files alone, for a machine that has no toolkit"""
)
def compose() -> None:
    """Runs the server with what watches it: Prometheus, Grafana, and a proxy for TLS and traffic splits.

    Images, ports and the proxy are what `compose:` in models.yaml says.
    """


@compose.command()
@models_argument
@fleet_option
@port_options
@wait_option
def up(names: tuple[str, ...], fleet: Path, host: str, port: int, rest_port: int, wait: float) -> None:
    """Brings all services up, and returns when every model is available and every service answers.

    What runs already stays, but for services whose settings changed.
    """
    from tfserving.serving import engines
    from tfserving.serving.compose import project
    from tfserving.serving.docker import daemon
    from tfserving.serving.lint import problems
    from tfserving.serving.models_yaml.fleet import read_fleet

    with changing_fleet(fleet, wait):
        with Refusals():
            read = read_fleet(fleet)
            daemon.require()
            project.command()
            plan = engines.Plan(read, read.select(names), host, port, rest_port, whole=not names)
            engines.refuse([*problems(read, plan.names), *project.problems(plan)], say)
            project.check_ports(plan)
        with Failures():
            versions = project.up(plan, wait, say)
    with Failures():
        more = [f"Prometheus  http://{engines.address(host, read.compose.prometheus_port)}"]
        if read.compose.grafana:
            more.append(f"Grafana  http://{engines.address(host, read.compose.grafana_port)}")
        if read.compose.envoy:
            more.append(f"REST with TLS  https://{engines.address(host, read.compose.envoy.port)}")
        click.echo(banner(plan, "compose", versions, "\n".join([*more, "`tfserving serve compose down` ends it."])))


@compose.command()
@fleet_option
def down(fleet: Path) -> None:
    """Drains the server and removes all services with what they kept, metrics included; nothing is left."""
    from tfserving.serving.compose import project
    from tfserving.serving.docker import daemon
    from tfserving.serving.models_yaml.fleet import read_fleet

    with Refusals():
        read = read_fleet(fleet)
        daemon.require()
    with Failures():
        if not project.down(read, say):
            say("Nothing is up.")


@compose.command()
@click.argument("folder", type=click.Path(path_type=Path))
@fleet_option
@port_options
@wait_option
def render(folder: Path, fleet: Path, host: str, port: int, rest_port: int, wait: float) -> None:
    """Writes compose.yaml and what it mounts into FOLDER, which must not exist.

    A private key that models.yaml names is among it, so others can't look into FOLDER.
    """
    from tfserving.serving import engines
    from tfserving.serving.compose import files, project
    from tfserving.serving.lint import problems
    from tfserving.serving.models_yaml.fleet import read_fleet

    with Refusals():
        read = read_fleet(fleet)
        plan = engines.Plan(read, read.select(()), host, port, rest_port)
        engines.refuse([*problems(read, plan.names), *project.problems(plan)], say)
        if folder.exists():
            raise engines.EngineError(f"{folder} exists; name a folder that doesn't")
        made = files.files(plan, wait)
    with Failures():
        files.write_new(folder, made)
    click.echo(str(folder / files.COMPOSE))
