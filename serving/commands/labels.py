"""`labels`: names for versions, in models.yaml and on the servers that run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.clients.commands.calls import Target, optional_server_options
from tfserving.foundation.command.group import Group
from tfserving.foundation.command.options import (
    complete_models,
    fleet_option,
    json_option,
    models_argument,
    wait_option,
)
from tfserving.foundation.command.suggest import did_you_mean
from tfserving.serving.commands.applying import apply
from tfserving.serving.commands.failures import before_it_starts, while_it_runs
from tfserving.serving.commands.options import changing_fleet, read_with, say
from tfserving.serving.commands.status import labels_of, models_of

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet


@click.group(
    cls=Group,
    epilog="""\b
Examples:
  tfserving labels list
  tfserving labels set digits stable=3 canary=4
  tfserving labels remove digits canary""",
)
def labels() -> None:
    """Set the labels of versions, such as stable.

    A label is a name for a version. Requests can name a label instead of a
    version. If a model has the label `stable`, requests without a version and
    a label get that version. The version with the label `canary` is served as
    a model of its own, MODEL-canary.
    """


@labels.command(
    "list",
    epilog="""\b
Examples:
  tfserving labels list
  tfserving labels list digits --server grpc://10.0.0.7:8500 --label shadow""",
)
@models_argument
@fleet_option
@optional_server_options
@click.option("--label", "more", multiple=True, metavar="LABEL", help="Another label to look up on servers.")
@json_option
def list_labels(
    *, names: tuple[str, ...], fleet: Path, target: Target | None, more: tuple[str, ...], as_json: bool
) -> None:
    """List the labels in models.yaml and on the servers that run.

    TensorFlow Serving does not list its labels. Those of models.yaml, stable,
    canary and each LABEL are looked up by name.
    """
    if target is not None:
        _list_one(target, models_of(fleet, names), fleet, more, as_json=as_json)
        return
    from tfserving.clients import connect
    from tfserving.clients.errors import NotFound, ServingError
    from tfserving.clients.labels import versions_by_label
    from tfserving.serving.docker import deployment
    from tfserving.serving.engines import UnreachableError
    from tfserving.serving.models_yaml.fleet import read_fleet
    from tfserving.serving.running import running

    with before_it_starts():
        read = read_fleet(fleet)
        names = read.select(names)
    columns: dict[str, dict[tuple[str, str], int]] = {
        "models.yaml": {(name, label): version for name in names for label, version in read.models[name].labels.items()}
    }
    with while_it_runs():
        for server in running(read, deployment.exists):
            found = columns[server.title] = {}
            with connect(server.url, timeout=5) as client:
                for name in [name for name in server.names if name in names]:
                    try:
                        on_server = versions_by_label(client, name, labels_of(fleet, (name,), more))
                    except NotFound:
                        continue
                    except ServingError as error:
                        raise UnreachableError(f"the {server.title}: {error}") from None
                    found |= {(name, label): version for label, version in on_server.items()}
    _print(names, columns, as_json=as_json)


def _list_one(target: Target, names: Sequence[str], fleet: Path, more: tuple[str, ...], *, as_json: bool) -> None:
    """Print the labels of a server, whatever started it."""
    from tfserving.clients.labels import versions_by_label

    found: dict[tuple[str, str], int] = {}
    with target.connected() as client:
        for name in names:
            on_server = versions_by_label(client, name, labels_of(fleet, (name,), more))
            found |= {(name, label): version for label, version in on_server.items()}
    _print(names, {"version": found}, as_json=as_json)


def _print(names: Iterable[str], columns: dict[str, dict[tuple[str, str], int]], *, as_json: bool) -> None:
    """Print a row for each label, with its version in each of the columns."""
    rows = [
        key
        for name in names
        for key in dict.fromkeys(key for column in columns.values() for key in column)
        if key[0] == name
    ]
    if as_json:
        listed: list[dict[str, Any]] = [
            {
                "model": name,
                "label": label,
                "versions": {title: column.get((name, label)) for title, column in columns.items()},
            }
            for name, label in rows
        ]
        click.echo(json.dumps({"labels": listed}, indent=2))
        return
    if not rows:
        say("No labels are set.")
        return
    table = [["model", "label", *columns]]
    table += [[*row, *(str(column.get(row, "-")) for column in columns.values())] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    for row in table:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@labels.command(
    "set",
    epilog="""\b
Examples:
  tfserving labels set digits canary=3
  tfserving labels set digits stable=3 canary=4""",
)
@click.argument("name", metavar="MODEL", shell_complete=complete_models)
@click.argument("pairs", nargs=-1, required=True, metavar="LABEL=VERSION...")
@fleet_option
@wait_option
def set_labels(name: str, pairs: tuple[str, ...], fleet: Path, wait: float) -> None:
    """Set labels of MODEL.

    The version is loaded first, and the label moves when it is available.
    Then models.yaml is written. If a version does not exist or can't be
    loaded, nothing changes.
    """
    from tfserving.serving.models_yaml.file import check_writable

    wanted = dict(map(_label_and_version, pairs))
    with changing_fleet(fleet, wait):
        with before_it_starts():
            read = read_with(fleet, name)
            check_writable(read.file)
        _change(read, name, {**read.models[name].labels, **wanted}, wait)


@labels.command(
    "remove",
    epilog="""\b
Example:
  tfserving labels remove digits canary""",
)
@click.argument("name", metavar="MODEL", shell_complete=complete_models)
@click.argument("removed", nargs=-1, required=True, metavar="LABEL...")
@fleet_option
@wait_option
def remove_labels(name: str, removed: tuple[str, ...], fleet: Path, wait: float) -> None:
    """Remove labels of MODEL."""
    from tfserving.serving.models_yaml.file import check_writable
    from tfserving.serving.models_yaml.fleet import FleetError

    with changing_fleet(fleet, wait):
        with before_it_starts():
            read = read_with(fleet, name)
            check_writable(read.file)
            there = read.models[name].labels
            for label in removed:
                if label not in there:
                    text = f"model {name!r} has no label {label!r}; it has {', '.join(there) or 'none'}"
                    hint = did_you_mean(label, there)
                    raise FleetError(f"{text}.{hint}" if hint else text)
        _change(read, name, {label: version for label, version in there.items() if label not in removed}, wait)


def _label_and_version(pair: str) -> tuple[str, int]:
    """Return the parts of LABEL=VERSION. Raises UsageError."""
    from tfserving.foundation.golden import is_version
    from tfserving.serving.models_yaml.fleet import check_label

    label, equals, version = pair.rpartition("=")
    if not equals or not is_version(version) or int(version) < 1:
        raise click.UsageError(f"Got {pair!r}, expected LABEL=VERSION, such as canary=3.")
    try:
        check_label(label)
    except ValueError as error:
        raise click.UsageError(f"{pair!r}: {error}.") from None
    return label, int(version)


def _change(fleet: Fleet, name: str, wanted: dict[str, int], wait: float) -> None:
    """Apply a model's labels to the servers that run, then write them to models.yaml."""
    from tfserving.serving.models_yaml.file import write_labels
    from tfserving.serving.models_yaml.fleet import CANARY, FleetError
    from tfserving.serving.served import served

    changed = fleet.with_labels(name, wanted)
    there = apply(changed, (name,), wait)
    with while_it_runs():
        try:
            write_labels(fleet.file, name, wanted, before=fleet.models[name].labels)
        except FleetError as error:
            raise FleetError(f"{error}. The servers have the new labels already" if there else str(error)) from None
    listed = ", ".join(f"{label}={version}" for label, version in wanted.items()) or "none"
    say(f"Labels of {name}: {listed}.")
    for one in served(changed, name):
        if one.is_canary:
            say(f"Clients get version {wanted[CANARY]} as model {one.name}.")
