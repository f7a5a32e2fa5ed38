"""`image`: the fleet inside an image."""

from __future__ import annotations

from pathlib import Path

import click

from tfserving.foundation.command.options import fleet_option, models_argument
from tfserving.serving.commands.options import Failures, Refusals, say


@click.command(
    epilog="""\b
Examples:
  tfserving serve image --tag registry.example.com/digits:3
  docker run --read-only --tmpfs /tmp -p 127.0.0.1:8500:8500 registry.example.com/digits:3"""
)
@models_argument
@fleet_option
@click.option("--tag", help="The image's name and tag; serving-FOLDER:latest when not given.")
def image(names: tuple[str, ...], fleet: Path, tag: str | None) -> None:
    """Builds an image with the fleet, or the MODELs named, inside: versions, configuration and flags.

    Every version is compared with its manifest first, whose digest becomes a label.
    """
    from tfserving.serving import engines
    from tfserving.serving.docker import bake, daemon
    from tfserving.serving.lint import problems
    from tfserving.serving.models_yaml.fleet import read_fleet
    from tfserving.serving.running import fleet_id

    with Refusals():
        read = read_fleet(fleet)
        names = read.select(names)
        daemon.require()
        engines.refuse(problems(read, names), say)
    with Failures():
        tag = tag or f"serving-{fleet_id(read).rpartition('-')[0]}:latest"
        digest = bake.bake(read, names, tag, say)
        click.echo(f"{tag}  {digest}")
