"""`image`: an image that contains the models."""

from __future__ import annotations

from pathlib import Path

import click

from tfserving.foundation.command.options import fleet_option, models_argument
from tfserving.foundation.command.progress import Progress
from tfserving.serving.commands.failures import before_it_starts, while_it_runs
from tfserving.serving.commands.missing import export_missing, without_version
from tfserving.serving.commands.options import export_option, say


@click.command(
    epilog="""\b
Examples:
  tfserving image --tag registry.example.com/digits:3
  docker run --read-only --tmpfs /tmp -p 127.0.0.1:8500:8500 \\
    registry.example.com/digits:3"""
)
@models_argument
@fleet_option
@click.option("--tag", help="The name and tag of the image.  [default: serving-FOLDER and a hash of the content]")
@export_option
def image(names: tuple[str, ...], fleet: Path, tag: str | None, no_export: bool) -> None:
    """Build an image that contains the models.

    The image contains copies of the versions that are served, their
    configuration and flags. Each copy is compared with its manifest, and if
    models.yaml has `trust`, somebody of it must have signed it.
    """
    from tfserving.serving import engines
    from tfserving.serving.docker import bake, daemon
    from tfserving.serving.lint import problems, settings_problems
    from tfserving.serving.models_yaml.fleet import read_fleet

    with before_it_starts():
        read = read_fleet(fleet)
        names = read.select(names)
        engines.refuse(settings_problems(read), lambda _: None)
        missing = without_version(read, names, export=not no_export)
        daemon.require()
        export_missing(read, missing)
        engines.refuse(problems(read, names), say)
    with while_it_runs(), Progress() as progress:
        progress.update("Building the image")
        tag, digest = bake.bake(read, names, tag, progress)
    click.echo(f"{tag}  {digest}")
