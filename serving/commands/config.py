"""`config`: the configuration of a server."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tfserving.foundation.command.errors import WRONG
from tfserving.foundation.command.options import fleet_option, json_option, models_argument
from tfserving.serving.commands.failures import before_it_starts
from tfserving.serving.commands.options import PORT, say


@click.command(
    epilog="""\b
Examples:
  tfserving config                  the configuration of a container
  tfserving config --check          errors and warnings before a start
  tfserving config digits --local   of a process, for one model

\b
With --check, the exit code is 2 if there is an error, and 0 if there are only
warnings."""
)
@models_argument
@fleet_option
@click.option("--port", type=PORT, metavar="PORT", default=8500, show_default=True, help="The gRPC port, with --local.")
@click.option(
    "--rest-port", type=PORT, metavar="PORT", default=8501, show_default=True, help="The REST port, with --local."
)
@click.option("--local", is_flag=True, help="For a process on this machine instead of a container.")
@click.option("--check", "only_check", is_flag=True, help="Print errors and warnings instead of the configuration.")
@json_option
def config(
    names: tuple[str, ...],
    fleet: Path,
    port: int,
    rest_port: int,
    local: bool,
    only_check: bool,
    as_json: bool,
) -> None:
    """Print or check the server configuration.

    The configuration is files, flags and variables generated from models.yaml.
    A private key is left out.
    """
    from tfserving.serving.admitted import without_copying
    from tfserving.serving.config import container_config, on_host, server_config
    from tfserving.serving.docker.container import environment
    from tfserving.serving.engines import EngineError
    from tfserving.serving.gpu_environment import GpuError, gpu_environment, visible_devices
    from tfserving.serving.gpu_lint import missing_gpus
    from tfserving.serving.lint import problems
    from tfserving.serving.models_yaml.fleet import read_fleet
    from tfserving.serving.running import config_folder

    with before_it_starts():
        read = read_fleet(fleet)
        names = read.select(names)
        if only_check:
            found = [*(missing_gpus(read.server) if local else ())]
            found += problems(read, names, container=not local, before_export=True)
            if as_json:
                listed = [{"where": one.where, "problem": one.text, "warning": one.warning} for one in found]
                click.echo(json.dumps({"problems": listed}, indent=2))
            for problem in () if as_json else found:
                click.echo(str(problem))
            if not all(problem.warning for problem in found):
                click.get_current_context().exit(WRONG)
            say(f"{read.file}: no errors for {', '.join(names)}.")
            return
        read = without_copying(read, names)
        if local:
            places = on_host(read, port, rest_port, config_folder(read, "native", port))
            made = server_config(read, names, places, embedded=False)
            try:
                variables = {**gpu_environment(read.server, embedded=False), **visible_devices(read.server)}
            except GpuError as error:
                raise EngineError(f"server.gpus: {error}") from None
        else:
            made = container_config(read, names)
            variables = environment(read.server)
    files = {name: _without_key(text) for name, text in made.files.items()}
    if as_json:
        click.echo(json.dumps({"files": files, "flags": made.flags, "environment": variables}, indent=2))
        return
    for name, text in files.items():
        click.echo(f"# {name}\n{text}")
    click.echo("# flags\n" + "\n".join(made.flags))
    if variables:
        click.echo("\n# environment\n" + "\n".join(f"{name}={value}" for name, value in variables.items()))


def _without_key(text: str) -> str:
    """Return `text` without the value of a private key."""
    return "\n".join(
        'server_key: "…"  # left out here' if line.startswith("server_key:") else line for line in text.splitlines()
    )
