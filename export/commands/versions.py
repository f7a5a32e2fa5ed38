"""`tfserving export list`, `inspect` and `diff`: the versions on disk, what they contain and how two differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.clients.commands.calls import optional_server_options
from tfserving.export.commands.published import is_place, list_published, plain_http_option
from tfserving.export.commands.selection import checked_input, find_version, fleet_of, folder_option, select
from tfserving.export.commands.signers import trust_of, trust_option
from tfserving.export.commands.used import use_of
from tfserving.foundation.command.options import complete_models, fleet_option, json_option

if TYPE_CHECKING:
    from tfserving.clients.commands.calls import Target
    from tfserving.serving.models_yaml.fleet import Fleet


@click.command(
    "list",
    epilog="""\b
Examples:
  tfserving export list
  tfserving export list digits --json
  tfserving export list s3://bucket/models
  tfserving export list s3://bucket/models digits --server grpc://server:8500
  tfserving export list oci://registry.example/models digits --trust sign.pub""",
)
@click.argument("names", nargs=-1, metavar="[URL] [MODEL]...", shell_complete=complete_models)
@fleet_option
@folder_option
@trust_option
@click.option(
    "--newest",
    type=click.IntRange(1, 10_000),
    default=10,
    show_default=True,
    metavar="COUNT",
    help="With URL: how many versions of a model to list.",
)
@plain_http_option
@optional_server_options
@json_option
def list_versions(
    names: tuple[str, ...],
    fleet: Path,
    folder: Path | None,
    trust: tuple[Path, ...],
    newest: int,
    plain_http: bool,
    target: Target | None,
    as_json: bool,
) -> None:
    """List the versions on disk, or those published at a URL.

    Each has its labels, the time of its export, and the metrics that the builder measured.

    URL is a folder, an object store or a registry, as `export publish` has it. Then each version has its size, who
    signed it, and whether it is whole. No weights are read: a signature is compared with the manifest, and the sizes
    in the manifest with those in the store. Labels are those of models.yaml. --server adds what a server has loaded.
    """
    if names and is_place(names[0]):
        list_published(names[0], names[1:], fleet, trust, newest, target, plain_http, as_json)
        return
    if trust or target or plain_http:
        raise click.UsageError(
            "--trust, --server and --plain-http need a URL; `export check` verifies versions on disk"
        )
    with checked_input():
        selected = select(names, fleet, folder)
        models: list[dict[str, Any]] = [
            {
                "name": name,
                "folder": str(selected.model_folder(name)),
                "versions": [_described(selected, name, version) for version in selected.versions(name)],
            }
            for name in selected.models
        ]
    if as_json:
        click.echo(json.dumps({"models": models}, indent=2))
        return
    for model in models:
        if not model["versions"]:
            click.echo(f"{model['name']}  no versions yet")
        for version in model["versions"]:
            click.echo(f"{model['name']}  version {version['version']}  {_line(version)}")


def _described(fleet: Fleet, name: str, version: int) -> dict[str, Any]:
    """Return what `list --json` prints of one version."""
    from tfserving.export.manifest import ManifestError, read_manifest

    path = fleet.model_folder(name) / str(version)
    labels = sorted(label for label, labelled in fleet.models[name].labels.items() if labelled == version)
    found: dict[str, Any] = {"version": version, "path": str(path), "labels": labels}
    try:
        manifest = read_manifest(path)
    except ManifestError as error:
        return found | {"error": str(error)}
    metrics = manifest.model_dump(mode="json")["metrics"]
    return found | {"created": manifest.created.isoformat(), "metrics": metrics}


def _line(version: dict[str, Any]) -> str:
    from tfserving.foundation.quality import figure

    if "error" in version:
        return str(version["error"])
    values = {
        name: metric["value"] if isinstance(metric, dict) else metric for name, metric in version["metrics"].items()
    }
    metrics = [f"{name} {figure(value)}" for name, value in values.items()]
    return "  ".join([version["created"], *metrics, *version["labels"]])


@click.command(
    epilog="""\b
Examples:
  tfserving export inspect digits              the newest version
  tfserving export inspect digits/3 --json
  tfserving export inspect digits/3 --server http://127.0.0.1:8501
  tfserving export inspect some/saved_model    any SavedModel"""
)
@click.argument("version", metavar="MODEL[/VERSION]|FOLDER", shell_complete=complete_models)
@fleet_option
@folder_option
@click.option(
    "--server",
    metavar="URL",
    help="Also show whether this server has the version. Its REST address shows whether the manifest is the same.",
)
@json_option
def inspect(version: str, fleet: Path, folder: Path | None, server: str | None, as_json: bool) -> None:
    """Show the contents of a version, and where it is from.

    They are its signatures, variables, sizes, golden requests and manifest. The chain goes from the commit over the
    builder, its data, the manifest and who signed it to the labels in models.yaml, and to a server. `trust` in
    models.yaml verifies the signature.
    """
    from tfserving.export.inspection import inspect_version

    with checked_input():
        found = fleet_of(fleet)
        inspection = inspect_version(find_version(version, fleet, folder), trust_of((), found))
        use = use_of(inspection.manifest, inspection.path, found, server)
    inspection = replace(inspection, use=use)
    if as_json:
        click.echo(json.dumps(inspection.as_json(), indent=2))
    else:
        _print(inspection.tables())


@click.command(
    epilog="""\b
Examples:
  tfserving export diff digits/2 digits/3
  tfserving export diff digits/2 elsewhere/digits/7 --json"""
)
@click.argument("old", metavar="OLD", shell_complete=complete_models)
@click.argument("new", metavar="NEW", shell_complete=complete_models)
@fleet_option
@folder_option
@json_option
def diff(old: str, new: str, fleet: Path, folder: Path | None, as_json: bool) -> None:
    """Compare two versions.

    OLD and NEW are MODEL/VERSION, MODEL or a folder. The comparison covers signatures, weights, metrics, the outputs of
    the same golden requests, and where the versions are from. A change that breaks clients of OLD is marked as
    breaking. A variable that only has another name is marked as renamed.
    """
    from tfserving.export.differences import diff_versions

    with checked_input():
        differences = diff_versions(*(find_version(text, fleet, folder) for text in (old, new)))
    if as_json:
        click.echo(json.dumps(differences.as_json(), indent=2))
    else:
        _print(differences.tables())


def _print(tables: Any) -> None:
    from tfserving.clients.commands.tables import lines_of

    for table in tables:
        click.echo("\n".join([*lines_of(table), ""]))
