"""`k8s chart`."""

from __future__ import annotations

from pathlib import Path

import click

from tfserving.foundation.command.errors import FAILED, WRONG
from tfserving.foundation.command.options import fleet_option, models_argument
from tfserving.k8s.commands.failures import failing
from tfserving.k8s.commands.overlays import overlay_option, read_fleet_with


@click.command(
    epilog="""\b
Examples:
  tfserving k8s chart
  tfserving k8s chart --output deployment/serving
  helm install serving chart"""
)
@models_argument
@fleet_option
@overlay_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="chart",
    show_default=True,
    metavar="FOLDER",
    help="The folder of the chart. An earlier chart there is replaced, nothing else.",
)
def chart(names: tuple[str, ...], fleet: Path, overlays: tuple[str, ...], output: Path) -> None:
    """Write a Helm chart with the manifests of `render`.

    values.yaml has the settings of models.yaml that differ between
    installations, such as the image. The folder is written whole or not at
    all.
    """
    from tfserving.k8s.chart import files, writing

    folder = output.absolute()
    with failing(WRONG):
        found, names, kubectl = read_fleet_with(fleet, names, None, overlays)
        writing.check(folder)
        made = files.chart(found, names, kubectl)
    with failing(FAILED):
        writing.write(folder, made)
    click.echo(output)
