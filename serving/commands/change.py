"""`config`, `labels` and `reload`: what a server is told, and telling one that runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.options import fleet_option, json_option, models_argument, wait_option
from tfserving.serving.commands.options import Failures, Refusals, changing_fleet, read_with, say

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.running import Running


@click.command(
    epilog="""\b
Examples:
  tfserving serve config                   what a container would be told
  tfserving serve config --check           whether it is right, before anything starts
  tfserving serve config --local digits    what a process of this machine would be told about one model

\b
Exit codes: 0 nothing is wrong; 2 something is, each on a line. Warnings change nothing."""
)
@models_argument
@fleet_option
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8500, show_default=True, help="With --local, gRPC's port."
)
@click.option(
    "--rest-port", type=click.IntRange(1, 65535), default=8501, show_default=True, help="With --local, REST's port."
)
@click.option("--local", is_flag=True, help="For a process of this machine instead of a container.")
@click.option("--check", "only_check", is_flag=True, help="Print what is wrong, and no configuration.")
@json_option
def config(
    names: tuple[str, ...],
    fleet: Path,
    port: int,
    rest_port: int,
    local: bool,
    only_check: bool,
    as_json: bool,
) -> None:
    """Prints the files and flags that models.yaml comes to, a private key left out; or checks them."""
    from tfserving.serving.config import container_config, on_host, server_config
    from tfserving.serving.lint import problems
    from tfserving.serving.models_yaml.fleet import read_fleet
    from tfserving.serving.running import config_folder

    with Refusals():
        read = read_fleet(fleet)
        names = read.select(names)
        found = problems(read, names, container=not local)
        if only_check:
            wrong = [problem for problem in found if not problem.warning]
            if as_json:
                said = [{"where": one.where, "problem": one.text, "warning": one.warning} for one in found]
                click.echo(json.dumps({"problems": said}, indent=2))
            else:
                for problem in found:
                    click.echo(str(problem))
                if not wrong:
                    say(f"{read.file} is right for {', '.join(names)}.")
            sys.exit(2 if wrong else 0)
        if local:
            places = on_host(read, port, rest_port, config_folder(read, "native", port))
            made = server_config(read, names, places, embedded=False)
        else:
            made = container_config(read, names)
    files = {name: _without_key(text) for name, text in made.files.items()}
    if as_json:
        click.echo(json.dumps({"files": files, "flags": made.flags}, indent=2))
        return
    for name, text in files.items():
        click.echo(f"# {name}\n{text}")
    click.echo("# flags\n" + "\n".join(made.flags))


@click.group()
def labels() -> None:
    """Sets labels, in models.yaml and on the servers that run."""


@labels.command(
    "set",
    epilog="""\b
Examples:
  tfserving serve labels set digits canary=3
  tfserving serve labels set digits stable=3 canary=4""",
)
@click.argument("name", metavar="MODEL")
@click.argument("pairs", nargs=-1, required=True, metavar="LABEL=VERSION...")
@fleet_option
@wait_option
def set_labels(name: str, pairs: tuple[str, ...], fleet: Path, wait: float) -> None:
    """Gives versions of MODEL their labels, and returns when every server of the fleet that runs knows them.

    The version is loaded first, so a label never means nothing. A label for a version that isn't there, or that can't
    be loaded, changes nothing. With a label `stable`, clients that give neither label nor version get that version, and
    `canary` is served as a model of its own, MODEL-canary.
    """
    from tfserving.foundation.golden import is_version
    from tfserving.serving.models_yaml.file import check_writable

    said: dict[str, int] = {}
    for pair in pairs:
        label, equals, version = pair.partition("=")
        if not label or not equals or not is_version(version) or int(version) < 1:
            raise click.UsageError(f"{pair!r} is not LABEL=VERSION, as in canary=3.")
        said[label] = int(version)
    with changing_fleet(fleet, wait):
        with Refusals():
            read = read_with(fleet, name)
            check_writable(read.file)
        _label(read, name, {**read.models[name].labels, **said}, wait)


@labels.command("remove")
@click.argument("name", metavar="MODEL")
@click.argument("gone", nargs=-1, required=True, metavar="LABEL...")
@fleet_option
@wait_option
def remove_labels(name: str, gone: tuple[str, ...], fleet: Path, wait: float) -> None:
    """Takes labels of MODEL away, and returns when every server of the fleet that runs has forgotten them."""
    from tfserving.serving.models_yaml.file import check_writable
    from tfserving.serving.models_yaml.fleet import FleetError

    with changing_fleet(fleet, wait):
        with Refusals():
            read = read_with(fleet, name)
            check_writable(read.file)
            there = read.models[name].labels
            for label in gone:
                if label not in there:
                    raise FleetError(f"model {name!r} has no label {label!r}; it has {', '.join(there) or 'none'}")
        _label(read, name, {label: version for label, version in there.items() if label not in gone}, wait)


@click.command(
    epilog="""\b
Example:
  tfserving export build digits && tfserving serve reload"""
)
@fleet_option
@wait_option
def reload(fleet: Path, wait: float) -> None:
    """Has the servers that run take what models.yaml says of models, versions and labels, and returns when they have.

    A server that was started without MODEL gets new models, too, and models that are gone are unloaded; one that was
    started with MODELs keeps to these. What each server reports then is printed. Without labels, a server takes a new
    version by itself. Anything else that models.yaml says is for the next start.
    """
    from tfserving.serving.models_yaml.fleet import read_fleet

    with changing_fleet(fleet, wait):
        with Refusals():
            read = read_fleet(fleet)
        _apply(read, tuple(read.models), wait, listed=True)


def _label(fleet: Fleet, name: str, wanted: dict[str, int], wait: float) -> None:
    """Applies a model's labels to the servers that run, and then writes them to models.yaml."""
    from tfserving.serving.models_yaml.file import write_labels
    from tfserving.serving.models_yaml.fleet import CANARY, FleetError
    from tfserving.serving.served import served

    changed = fleet.with_labels(name, wanted)
    there = _apply(changed, (name,), wait)
    with Failures():
        try:
            write_labels(fleet.file, name, wanted, before=fleet.models[name].labels)
        except FleetError as error:
            raise FleetError(f"{error}; the servers have the new labels already" if there else str(error)) from None
    said = ", ".join(f"{label}={version}" for label, version in wanted.items()) or "none"
    say(f"Labels of {name}: {said}.")
    for one in served(changed, name):
        if one.is_canary:
            say(f"Clients get version {wanted[CANARY]} as model {one.name}.")


def _apply(fleet: Fleet, changed: tuple[str, ...], wait: float, *, listed: bool = False) -> bool:
    """Has the servers that run serve what `fleet` says, or checks the models `changed`; whether there are servers.

    With `listed`, all that each server reports then is printed.
    """
    from tfserving.serving import live
    from tfserving.serving.docker import deployment
    from tfserving.serving.engines import refuse
    from tfserving.serving.lint import problems
    from tfserving.serving.running import note, running

    with Refusals():
        servers = [(server, server.following(fleet, changed)) for server in running(fleet, deployment.exists)]
        for _, server in servers:
            refuse(problems(fleet, server.names, container=server.is_container, engine=server.engine), say)
        if not servers:
            refuse(problems(fleet, changed, container=False), say)
    with Failures():
        for before, server in servers:
            live.apply(fleet, server, wait, say)
            if server != before:
                note(fleet, server)
            if listed:
                _list(fleet, before, server)
            elif {*changed} & {*server.names}:
                say(f"The {server.title} has it.")
            for name in changed:
                if name not in server.names:
                    say(f"{name} is not among the models that the {server.title} was started with.")
    if not servers:
        say("No server runs; the next one starts with it.")
    return bool(servers)


def _list(fleet: Fleet, before: Running, server: Running) -> None:
    """Says what `server` has now, which had the models of `before`."""
    from tfserving.serving.states import lines, states

    say(f"The {server.title} has:")
    for line in lines(states(fleet, server)[1]):
        say(f"  {line}")
    for name in before.names:
        if name not in server.names:
            say(f"  {name}: unloaded; {fleet.file.name} doesn't have it any more")


def _without_key(text: str) -> str:
    """`text` with the value of a private key left out."""
    return "\n".join(
        'server_key: "…"  # left out here' if line.startswith("server_key:") else line for line in text.splitlines()
    )
