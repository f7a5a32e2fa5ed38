"""`tfserving export publish`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from tfserving.export.commands.published import plain_http_option
from tfserving.export.commands.selection import checked_input, find_version, fleet_of, folder_option
from tfserving.export.commands.signers import trust_of
from tfserving.foundation.command.errors import WRONG, CommandError
from tfserving.foundation.command.options import complete_models, fleet_option, json_option


@click.command(
    epilog="""\b
Examples:
  tfserving export publish digits/3 /srv/models        /srv/models/digits/3
  tfserving export publish digits s3://bucket/models   the newest version
  tfserving export publish digits/3 gs://bucket/models
  tfserving export publish digits/3 oci://registry.example/models
  tfserving export publish digits/3 models:/digits     registered in MLflow

\b
Object stores need an extra: s3 (s3://) or gs (gs://).
Credentials and endpoint are set as for the tools of that cloud.
Registries need the extra oci. Log in with `docker login` or `oras login`.
models:/ needs the extra mlflow, and MLFLOW_TRACKING_URI.""",
)
@click.argument("version", metavar="MODEL[/VERSION]", shell_complete=complete_models)
@click.argument("destination", metavar="DEST")
@fleet_option
@folder_option
@plain_http_option
@json_option
def publish(version: str, destination: str, fleet: Path, folder: Path | None, plain_http: bool, as_json: bool) -> None:
    """Copy a version to a folder, an object store or a registry.

    The copy is DEST/MODEL/VERSION, where a server finds it. DEST is a folder, s3://, gs:// or abfs://. With oci:// it
    is the image DEST/MODEL:VERSION of a registry, which can be mounted as an image volume. VERSION is a number or
    `latest`, the default. The version is checked before it is copied, and the copy is read back. With `trust` in
    models.yaml, it must be signed. A server never finds half of it. Of several publishers of one number, one wins, and
    the others report an error; a registry can't always tell. Run the same command again to resume an interrupted copy.
    """
    from tfserving.export.errors import ExportError
    from tfserving.export.manifest import read_manifest
    from tfserving.export.oci.place import is_registry
    from tfserving.export.publish import check_destination
    from tfserving.export.publish import publish as run
    from tfserving.foundation.command.progress import Progress
    from tfserving.serving.models_yaml.patterns import is_mlflow_uri

    if is_registry(destination):
        _push(version, destination, fleet, folder, plain_http, as_json)
        return
    if plain_http:
        raise click.UsageError("--plain-http is for a registry: oci://HOST/REPOSITORY")
    if is_mlflow_uri(destination):
        _register(version, destination, fleet, folder, as_json)
        return
    with checked_input():
        trust = trust_of((), fleet_of(fleet))
        path = find_version(version, fleet, folder)
        manifest = read_manifest(path)
        check_destination(destination, manifest.model)
    try:
        with Progress() as progress:
            published = run(path, manifest.model, manifest.version, destination, progress.update, trust)
    except ExportError as error:
        raise CommandError(str(error)) from None
    click.echo(json.dumps(asdict(published), indent=2) if as_json else str(published))


def _push(version: str, destination: str, fleet: Path, folder: Path | None, plain_http: bool, as_json: bool) -> None:
    from tfserving.export.manifest import read_manifest
    from tfserving.export.oci.errors import RegistryError
    from tfserving.export.oci.place import read_place
    from tfserving.export.oci.publish import push
    from tfserving.export.outgoing import PublishError
    from tfserving.foundation.command.progress import Progress

    with checked_input():
        trust = trust_of((), fleet_of(fleet))
        path = find_version(version, fleet, folder)
        manifest = read_manifest(path)
    try:
        place = read_place(destination)
        place.repository(manifest.model)
    except RegistryError as error:
        raise CommandError(str(error), WRONG) from None
    try:
        with Progress() as progress:
            pushed = push(path, manifest.model, manifest.version, place, plain_http, progress.update, trust)
    except PublishError as error:
        raise CommandError(str(error)) from None
    click.echo(json.dumps(asdict(pushed), indent=2) if as_json else str(pushed))


def _register(version: str, destination: str, fleet: Path, folder: Path | None, as_json: bool) -> None:
    from tfserving.export.errors import ExportError
    from tfserving.export.manifest import read_manifest
    from tfserving.export.mlflow.register import check_name, register
    from tfserving.foundation.command.progress import Progress

    with checked_input():
        path = find_version(version, fleet, folder)
        manifest = read_manifest(path)
        check_name(destination)
        trust = trust_of((), fleet_of(fleet))
    try:
        with Progress() as progress:
            registered = register(path, manifest.model, manifest.version, destination, trust, progress.update)
    except ExportError as error:
        raise CommandError(str(error)) from None
    click.echo(json.dumps(asdict(registered), indent=2) if as_json else str(registered))
