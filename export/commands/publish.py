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
  tfserving export publish digits/3 oci://registry.example/models   registry.example/models/digits:3
  tfserving export publish digits/3 models:/digits     the next version of a registered model of MLflow

\b
Object stores need an extra: s3 (s3://) or gs (gs://). Registries need the extra oci.
Credentials and endpoint are set as for the tools of that cloud.
Log in to a registry with `docker login`, `podman login` or `oras login`.
models:/ needs the extra mlflow, and MLFLOW_TRACKING_URI.""",
)
@click.argument("version", metavar="MODEL[/VERSION]", shell_complete=complete_models)
@click.argument("destination", metavar="DEST")
@fleet_option
@folder_option
@plain_http_option
@json_option
def publish(version: str, destination: str, fleet: Path, folder: Path | None, plain_http: bool, as_json: bool) -> None:
    """Copy a version to a folder, an object store or an OCI registry, or register it in MLflow.

    The copy is DEST/MODEL/VERSION, where a server finds it. DEST is a folder or a URL that fsspec supports. In a
    registry it is the image DEST/MODEL:VERSION, which can be mounted as an image volume. VERSION is
    a number or `latest`, the default. The version is checked before it is copied, and the copy is read back. A server
    never finds half of it. Run the same command again to resume an interrupted copy.

    models:/NAME registers the version as the next version of the registered model NAME, on the server that
    MLFLOW_TRACKING_URI names. A version that is registered already is compared, and not registered again.
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
        path = find_version(version, fleet, folder)
        manifest = read_manifest(path)
        check_destination(destination, manifest.model)
    try:
        with Progress() as progress:
            published = run(path, manifest.model, manifest.version, destination, progress.update)
    except ExportError as error:
        raise CommandError(str(error)) from None
    click.echo(json.dumps(asdict(published), indent=2) if as_json else str(published))


def _push(version: str, destination: str, fleet: Path, folder: Path | None, plain_http: bool, as_json: bool) -> None:
    from tfserving.export.oci.errors import RegistryError
    from tfserving.export.oci.place import read_place
    from tfserving.export.oci.publish import PushError, push
    from tfserving.foundation.command.progress import Progress

    with checked_input():
        path = find_version(version, fleet, folder)
    try:
        place = read_place(destination)
        place.repository(path.absolute().parent.name)
    except RegistryError as error:
        raise CommandError(str(error), WRONG) from None
    try:
        with Progress() as progress:
            pushed = push(path, place, plain_http, progress.update)
    except PushError as error:
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
