"""`tfserving export publish`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from tfserving.export.commands.selection import ends_cleanly, folder_option, versions_in
from tfserving.foundation.command.options import fleet_option, json_option


@click.command(
    epilog="""\b
Examples:
  tfserving export publish digits 3 /srv/models              /srv/models/digits/3
  tfserving export publish digits latest s3://bucket/models  keys and endpoint as for any AWS tool
  tfserving export publish digits 3 gs://bucket/models       pip install gcsfs

\b
Exit codes: 0 it is there; 1 it could not be published; 2 wrong usage."""
)
@click.argument("name")
@click.argument("version")
@click.argument("destination", metavar="DEST")
@fleet_option
@folder_option
@json_option
def publish(name: str, version: str, destination: str, fleet: Path, folder: Path | None, as_json: bool) -> None:
    """Copies VERSION of model NAME to DEST/NAME/VERSION, where a server can load it.

    DEST is a folder or a URL that fsspec knows (s3://, gs://, …); VERSION is a number or 'latest'. The version is
    checked against its manifest first and read back after. A server never sees half of it: in a folder it is renamed
    into place, in an object store saved_model.pb comes last. What was interrupted goes on when it is said again.
    """
    from tfserving.export.console import Progress
    from tfserving.export.errors import ExportError
    from tfserving.export.publish import publish as run
    from tfserving.serving.models_yaml.fleet import read_fleet

    with ends_cleanly():
        models = folder or (read_fleet(fleet).folder if fleet.exists() else Path("models"))
        there = versions_in(models / name)
        if version == "latest" and there:
            version = str(there[-1])
        if not version.isdecimal() or int(version) not in there:
            has = ", ".join(map(str, there)) or "none"
            raise click.UsageError(f"{models / name} has no version {version!r}; its versions: {has}")
        progress = Progress()
        try:
            published = run(models / name / str(int(version)), name, int(version), destination, progress.say)
        except ExportError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)
        click.echo(json.dumps(asdict(published), indent=2) if as_json else str(published))
