"""`tfserving export prune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.export.commands.selection import checked_input, folder_option, select, short
from tfserving.foundation.command.errors import UNREACHABLE, CommandError
from tfserving.foundation.command.hints import DEFAULT_SERVER, SERVER_VARIABLE
from tfserving.foundation.command.options import fleet_option, json_option, models_argument

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet


@click.command(
    epilog="""\b
Examples:
  tfserving export prune --keep 3 --dry-run    print what would be removed
  tfserving export prune digits --keep 1"""
)
@models_argument
@click.option("--keep", type=click.IntRange(min=1), required=True, help="How many of the newest versions to keep.")
@click.option("--dry-run", is_flag=True, help="Print what would be removed, and remove nothing.")
@click.option(
    "--server",
    envvar=SERVER_VARIABLE,
    show_envvar=True,
    metavar="URL",
    help="A server whose loaded versions to keep. It must be reachable.  [default: one on this machine, if any]",
)
@fleet_option
@folder_option
@json_option
def prune(
    names: tuple[str, ...],
    keep: int,
    dry_run: bool,
    server: str | None,
    fleet: Path,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Remove the oldest versions.

    The newest versions stay, and so do versions that have a label in models.yaml or that the server has loaded.
    """
    from tfserving.export.staging import check_writable, remove_version

    rows: list[dict[str, Any]] = []
    with checked_input():
        selected = select(names, fleet, folder)
        for name in selected.models if not dry_run else ():
            check_writable(selected.model_folder(name))
        loaded = _loaded(selected, server)
    for name, model in selected.models.items():
        for version in selected.versions(name)[:-keep]:
            reason = ""
            if labels := [label for label, labelled in model.labels.items() if labelled == version]:
                reason = f"labelled {', '.join(labels)}"
            elif version in loaded[name]:
                reason = "loaded by a server"
            path = selected.model_folder(name) / str(version)
            if not reason and not dry_run:
                remove_version(path)
            rows.append({"model": name, "version": version, "removed": not reason and not dry_run, "kept": reason})
            outcome = f"kept: {reason}" if reason else "would be removed" if dry_run else "removed"
            click.echo(f"{short(path)}  {outcome}", err=as_json)
    if as_json:
        click.echo(json.dumps({"versions": rows}, indent=2))
    elif not rows:
        click.echo(f"Nothing to remove: no model has more than {keep} {'version' if keep == 1 else 'versions'}.")


def _loaded(fleet: Fleet, server: str | None) -> dict[str, set[int]]:
    """Return by model the versions that `server` has loaded, or the server at the default address if there is one."""
    from tfserving.clients import ServingError, connect
    from tfserving.foundation.labels import canary_name

    loaded: dict[str, set[int]] = {name: set() for name in fleet.models}
    url = (server or DEFAULT_SERVER).split(",")[0]
    try:
        client = connect(url)
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
                    text = f"cannot list the versions that {server} has loaded, so nothing was removed"
                    raise CommandError(f"{text}: {error.hint or error}", UNREACHABLE) from None
                break
            loaded[model] |= {status.version for status in statuses if status.state != "END"}
    return loaded
