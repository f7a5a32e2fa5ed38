"""`tfserving export publish`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from tfserving.export.commands.selection import checked_input, find_version, folder_option
from tfserving.foundation.command.errors import CommandError
from tfserving.foundation.command.options import complete_models, fleet_option, json_option


@click.command(
    epilog="""\b
Examples:
  tfserving export publish digits/3 /srv/models        /srv/models/digits/3
  tfserving export publish digits s3://bucket/models   the newest version
  tfserving export publish digits/3 gs://bucket/models

\b
Object stores need an extra: s3 (s3://) or gs (gs://).
Credentials and endpoint are set as for the tools of that cloud.""",
)
@click.argument("version", metavar="MODEL[/VERSION]", shell_complete=complete_models)
@click.argument("destination", metavar="DEST")
@fleet_option
@folder_option
@json_option
def publish(version: str, destination: str, fleet: Path, folder: Path | None, as_json: bool) -> None:
    """Copy a version to a folder or an object store.

    The copy is DEST/MODEL/VERSION, where a server finds it. DEST is a folder, s3://, gs:// or abfs://. VERSION is a
    number or `latest`, the default. The version is checked before it is copied, and the copy is read back. With `trust`
    in models.yaml, it must be signed. A server never finds half of it. Of several publishers of one number, one wins,
    and the others report an error. Run the same command again to resume an interrupted copy.
    """
    from tfserving.export.errors import ExportError
    from tfserving.export.manifest import read_manifest
    from tfserving.export.publish import check_destination
    from tfserving.export.publish import publish as run
    from tfserving.foundation.command.progress import Progress
    from tfserving.serving.models_yaml.fleet import read_fleet

    with checked_input():
        trust = read_fleet(fleet).trusted if fleet.exists() else None
        path = find_version(version, fleet, folder)
        manifest = read_manifest(path)
        check_destination(destination, manifest.model)
    try:
        with Progress() as progress:
            published = run(path, manifest.model, manifest.version, destination, progress.update, trust)
    except ExportError as error:
        raise CommandError(str(error)) from None
    click.echo(json.dumps(asdict(published), indent=2) if as_json else str(published))
