"""`tfserving export publish`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from tfserving.export.commands.selection import checked_input, find_version, fleet_of, folder_option
from tfserving.export.commands.signers import trust_of
from tfserving.foundation.command.errors import CommandError
from tfserving.foundation.command.options import complete_models, fleet_option, json_option


@click.command(
    epilog="""\b
Examples:
  tfserving export publish digits/3 /srv/models        /srv/models/digits/3
  tfserving export publish digits s3://bucket/models   the newest version
  tfserving export publish digits/3 gs://bucket/models
  tfserving export publish digits/3 models:/digits     a new version in MLflow's registry

\b
Object stores need an extra: s3 (s3://) or gs (gs://).
Credentials and endpoint are set as for the tools of that cloud.
models:/ needs the extra mlflow, and MLFLOW_TRACKING_URI.""",
)
@click.argument("version", metavar="MODEL[/VERSION]", shell_complete=complete_models)
@click.argument("destination", metavar="DEST")
@fleet_option
@folder_option
@json_option
def publish(version: str, destination: str, fleet: Path, folder: Path | None, as_json: bool) -> None:
    """Copy a version to a folder or an object store, or register it in MLflow.

    The copy is DEST/MODEL/VERSION, where a server finds it. DEST is a folder or a URL that fsspec supports. VERSION is
    a number or `latest`, the default. The version is checked before it is copied, and the copy is read back. A server
    never finds half of it. Run the same command again to resume an interrupted copy.

    models:/NAME registers the version as the next version of the registered model NAME, on the server that
    MLFLOW_TRACKING_URI names. A version that is registered already is compared, and not registered again.
    """
    from tfserving.export.errors import ExportError
    from tfserving.export.manifest import read_manifest
    from tfserving.export.mlflow.register import Registered, check_name, register
    from tfserving.export.publish import Published, check_destination
    from tfserving.export.publish import publish as run
    from tfserving.foundation.command.progress import Progress
    from tfserving.serving.models_yaml.patterns import is_mlflow_uri

    with checked_input():
        path = find_version(version, fleet, folder)
        manifest = read_manifest(path)
        if is_mlflow_uri(destination):
            check_name(destination)
        else:
            check_destination(destination, manifest.model)
        trust = trust_of((), fleet_of(fleet))
    published: Registered | Published
    try:
        with Progress() as progress:
            if is_mlflow_uri(destination):
                where = (path, manifest.model, manifest.version, destination)
                published = register(*where, trust, progress.update)
            else:
                published = run(path, manifest.model, manifest.version, destination, progress.update)
    except ExportError as error:
        raise CommandError(str(error)) from None
    click.echo(json.dumps(asdict(published), indent=2) if as_json else str(published))
