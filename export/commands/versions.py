"""`tfserving export list`, `inspect`, `diff` and `prune`: the versions there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.export.commands.selection import ends_cleanly, find_version, folder_option, select, short
from tfserving.foundation.command.options import fleet_option, json_option

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet

WIDTH = 1000
SERVER = "grpc://127.0.0.1:8500"


@click.command(
    "list",
    epilog="""\b
Examples:
  tfserving export list
  tfserving export list digits --json""",
)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@fleet_option
@folder_option
@json_option
def list_versions(models: tuple[str, ...], fleet: Path, folder: Path | None, as_json: bool) -> None:
    """Lists the versions of the fleet, or of the MODELs named: when they were made, and what was measured."""
    from tfserving.export.manifest import ManifestError, read_manifest
    from tfserving.foundation.quality import figure

    rows: list[dict[str, Any]] = []
    with ends_cleanly():
        selected = select(models, fleet, folder)
        for name, model in selected.models.items():
            for version in selected.versions(name):
                path = selected.model_folder(name) / str(version)
                labels = sorted(label for label, labelled in model.labels.items() if labelled == version)
                row: dict[str, Any] = {"model": name, "version": version, "path": str(path), "labels": labels}
                try:
                    manifest = read_manifest(path)
                except ManifestError as error:
                    rows.append(row | {"error": str(error)})
                else:
                    metrics = manifest.model_dump(mode="json")["metrics"]
                    rows.append(row | {"created": manifest.created.isoformat(), "metrics": metrics})
    if as_json:
        click.echo(json.dumps({"versions": rows}, indent=2))
        return
    if not rows:
        click.echo("There are no versions yet.", err=True)
    for row in rows:
        metrics = row.get("metrics", {}).items()
        values = [(name, metric["value"] if isinstance(metric, dict) else metric) for name, metric in metrics]
        said = [f"{name} {figure(value)}" for name, value in values] + row["labels"]
        click.echo(
            f"{row['model']}  version {row['version']}  " + row.get("error", f"{row.get('created')}  {'  '.join(said)}")
        )


@click.command(
    epilog="""\b
Examples:
  tfserving export inspect digits                    the newest version
  tfserving export inspect digits/3 --json
  tfserving export inspect some/saved_model          any SavedModel, whatever wrote it"""
)
@click.argument("version", metavar="FOLDER | NAME[/VERSION]")
@fleet_option
@folder_option
@json_option
def inspect(version: str, fleet: Path, folder: Path | None, as_json: bool) -> None:
    """Shows a version: its signatures, variables, sizes, golden requests and manifest."""
    from tfserving.export.inspection import inspect_version

    with ends_cleanly():
        inspection = inspect_version(find_version(version, fleet, folder))
        if as_json:
            click.echo(json.dumps(inspection.as_json(), indent=2))
        else:
            _print(inspection.tables())


@click.command(
    epilog="""\b
Examples:
  tfserving export diff digits/2 digits/3
  tfserving export diff models/digits/2 elsewhere/digits/7 --json"""
)
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@fleet_option
@folder_option
@json_option
def diff(old: str, new: str, fleet: Path, folder: Path | None, as_json: bool) -> None:
    """Shows how two versions differ: signatures, weights, metrics, and answers to the same golden requests.

    OLD and NEW are folders, or NAME/VERSION. A change that would break clients of OLD is called breaking. Weights are
    compared by their content: one that has another name is called renamed.
    """
    from tfserving.export.differences import diff_versions

    with ends_cleanly():
        paths = [find_version(text, fleet, folder) for text in (old, new)]
        differences = diff_versions(*paths)
        if as_json:
            click.echo(json.dumps(differences.as_json(), indent=2))
        else:
            _print(differences.tables())


@click.command(
    epilog="""\b
Examples:
  tfserving export prune --keep 3 --dry-run          what would be removed
  tfserving export prune digits --keep 1"""
)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--keep", type=click.IntRange(min=1), required=True, help="How many of the newest versions stay.")
@click.option("--dry-run", is_flag=True, help="Only says what would be removed.")
@click.option(
    "--server",
    metavar="URL",
    help=f"A server whose versions stay; it must answer.  [default: {SERVER}, if something answers there]",
)
@fleet_option
@folder_option
@json_option
def prune(
    models: tuple[str, ...],
    keep: int,
    dry_run: bool,
    server: str | None,
    fleet: Path,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Removes the oldest versions of the fleet, or of the MODELs named.

    The newest ones stay, so does a version that models.yaml gives a label, and one that the server has not unloaded.
    """
    from tfserving.export.staging import remove_version

    rows: list[dict[str, Any]] = []
    with ends_cleanly():
        selected = select(models, fleet, folder)
        served = _served(selected, server)
        for name, model in selected.models.items():
            versions = selected.versions(name)
            for version in versions[:-keep]:
                reason = ""
                if labels := [label for label, labelled in model.labels.items() if labelled == version]:
                    reason = f"is labelled {', '.join(labels)}"
                elif version in served[name]:
                    reason = "is served"
                path = selected.model_folder(name) / str(version)
                rows.append({"model": name, "version": version, "removed": not reason and not dry_run, "kept": reason})
                if not reason and not dry_run:
                    remove_version(path)
                done = f"stays: it {reason}" if reason else "would be removed" if dry_run else "removed"
                click.echo(f"{short(path)} {done}", err=as_json)
    if as_json:
        click.echo(json.dumps({"versions": rows}, indent=2))


def _served(fleet: Fleet, server: str | None) -> dict[str, set[int]]:
    """By model the versions that `server` has, or the one at the usual address when it isn't named."""
    from tfserving.clients import ServingError, connect
    from tfserving.foundation.labels import canary_name

    served: dict[str, set[int]] = {name: set() for name in fleet.models}
    try:
        client = connect(server or SERVER)
    except ValueError as error:
        raise click.UsageError(f"--server: {error}") from None
    with client:
        # The canary of a model is served under a name of its own.
        names = {name: model for model in fleet.models for name in (canary_name(model), model)}
        for name, model in names.items():
            try:
                statuses = client.status(name, timeout=5 if server else 1)
            except ServingError as error:
                if error.code == "NOT_FOUND":
                    continue
                if server:
                    raise click.ClickException(
                        f"{server} does not say what it serves, so nothing is removed: {error}"
                    ) from None
                break
            served[model] |= {status.version for status in statuses if status.state != "END"}
    return served


def _print(tables: Any) -> None:
    from rich.console import Console

    # Wide enough that nothing a user may search for is broken in two.
    console = Console(highlight=False, width=WIDTH)
    for table in tables:
        console.print(table)
        console.print()
