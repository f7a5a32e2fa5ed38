"""`tfserving export fetch`, and `export list URL`: versions where they are published."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.export.commands.selection import checked_input, fleet_of, folder_option
from tfserving.export.commands.signers import trust_of, trust_option
from tfserving.foundation.command.errors import FAILED, CommandError
from tfserving.foundation.command.options import complete_models, fleet_option, json_option

if TYPE_CHECKING:
    from tfserving.clients.commands.calls import Target
    from tfserving.export.published.listing import Known
    from tfserving.foundation.trust import Trust
    from tfserving.serving.models_yaml.fleet import Fleet

plain_http_option = click.option(
    "--plain-http",
    is_flag=True,
    help="Use HTTP without TLS for a registry that isn't on this machine. Its answers, and your credentials, can be "
    "read by others.",
)
max_bytes_option = click.option(
    "--max-bytes",
    type=click.IntRange(1),
    default=64 << 30,
    show_default=True,
    help="Limit of all bytes of a version.",
)
max_files_option = click.option(
    "--max-files",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Limit of the number of files of a version.",
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_place(text: str) -> bool:
    """Return whether an argument is a place with published versions: a URL or a path, and no model."""
    from tfserving.serving.models_yaml.patterns import is_mlflow_uri

    return is_mlflow_uri(text) or "://" in text or ("/" in text and "=" not in text and ":" not in text)


@click.command(
    epilog="""\b
Examples:
  tfserving export fetch s3://bucket/models digits/3
  tfserving export fetch s3://bucket/models digits       the newest version
  tfserving export fetch oci://registry.example/models digits/3
  tfserving export fetch oci://registry.example/models digits@sha256:…
  tfserving export fetch models:/digits digits/3         registered in MLflow

\b
Object stores need an extra: s3 (s3://) or gs (gs://).
Registries need the extra oci. Log in with `docker login` or `oras login`."""
)
@click.argument("source", metavar="URL")
@click.argument("wanted", metavar="MODEL[/VERSION]", shell_complete=complete_models)
@fleet_option
@folder_option
@trust_option
@max_bytes_option
@max_files_option
@plain_http_option
@json_option
def fetch(
    source: str,
    wanted: str,
    fleet: Path,
    folder: Path | None,
    trust: tuple[Path, ...],
    max_bytes: int,
    max_files: int,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Copy a published version into the folder of versions.

    URL is a folder, an object store, a registry or a registered model of MLflow, as `export publish` has it. VERSION is
    a number or `latest`, the default; in a registry also the digest of an image. The files are compared with the
    manifest before the version gets its number, and with `trust` in models.yaml, or --trust, the signature is verified.
    A version that exists is never overwritten.
    """
    from tfserving.export.published.fetch import FetchError
    from tfserving.export.published.fetch import fetch as run
    from tfserving.export.published.source import opened
    from tfserving.foundation.command.progress import Progress
    from tfserving.foundation.store import Limits

    with checked_input():
        used = fleet_of(fleet)
        trusted = trust_of(trust, used)
        model, version = _wanted(wanted)
    into = folder or (used.folder if used else Path("models"))
    try:
        with _readable(), opened(source, plain_http) as place, Progress() as progress:
            fetched = run(place, model, version, into, trusted, Limits(max_bytes, max_files), progress.update)
    except FetchError as error:
        raise CommandError(str(error), FAILED) from None
    click.echo(json.dumps(asdict(fetched), indent=2) if as_json else str(fetched))


def list_published(
    source: str,
    names: Iterable[str],
    file: Path,
    keys: tuple[Path, ...],
    newest: int,
    target: Target | None,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Print the versions of `export list URL`."""
    from tfserving.export.published.listing import as_json as found
    from tfserving.export.published.listing import listed
    from tfserving.export.published.source import opened
    from tfserving.foundation.store import Limits

    with checked_input():
        fleet = fleet_of(file)
        trust = trust_of(keys, fleet)
    limits = Limits()
    with _readable(), opened(source, plain_http) as place:
        chosen = tuple(names) or place.models()
        if chosen is None:
            chosen = tuple(fleet.models) if fleet else ()
            if not chosen:
                raise click.UsageError(f"a registry doesn't list its models; name one: export list {source} MODEL")
        models = [listed(place, name, newest, _known(name, fleet, trust, target), limits) for name in chosen]
    if as_json:
        click.echo(json.dumps({"url": place.url, "models": [found(model) for model in models]}, indent=2))
    else:
        for model in models:
            for line in model.lines():
                click.echo(line)
        if not models:
            click.echo(f"{place.url} has no models")
    if errors := [model.error for model in models if model.error is not None]:
        raise CommandError(errors[0] if len(models) == 1 else f"{len(errors)} models can't be listed", FAILED)


def _known(name: str, fleet: Fleet | None, trust: Trust | None, target: Target | None) -> Known:
    from tfserving.export.published.listing import Known

    labels = fleet.models[name].labels if fleet and name in fleet.models else {}
    return Known(trust, labels, _served(name, target) if target else {})


def _served(name: str, target: Target) -> dict[int, str]:
    """Return the state of each version on the server; none for a model that it doesn't have."""
    from tfserving.clients.errors import NotFound

    with target.connected() as client:
        try:
            return {one.version: one.state for one in client.status(name)}
        except NotFound:
            return {}


def _wanted(text: str) -> tuple[str, int | str | None]:
    """Return the model and the version that `MODEL[/VERSION]` or `MODEL@DIGEST` names."""
    from tfserving.export.commands.selection import LATEST
    from tfserving.foundation.golden import is_version
    from tfserving.serving.models_yaml.patterns import NAME

    name, at, digest = text.partition("@")
    name, slash, number = (name, "", "") if at else text.partition("/")
    if not NAME.fullmatch(name):
        raise click.UsageError(f"{name!r} is no model; expected MODEL, MODEL/VERSION or MODEL@sha256:…")
    if at:
        if not _DIGEST.fullmatch(digest):
            raise click.UsageError(f"{digest!r} is no digest; expected sha256: and 64 lower-case digits")
        return name, digest
    if not slash or number == LATEST:
        return name, None
    if not is_version(number) or int(number) < 1:
        raise click.UsageError(f"{number!r} is no version; expected a number of at least 1, or {LATEST}")
    return name, int(number)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """End the command with an error when a place can't be read."""
    from tfserving.foundation.store import StoreError

    try:
        yield
    except StoreError as error:
        raise CommandError(str(error), FAILED) from None
