"""The command `python -m export`: makes versions of models, each with its proof inside."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from export.exporter import Exported, Target
    from serving.fleet import Fleet

# What is not click is imported by the commands that use it, so that help comes at once.

fleet_option = click.option(
    "--fleet",
    type=click.Path(path_type=Path),
    default=Path("models.yaml"),
    show_default=True,
    help="The file that says which models there are.",
)
folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where versions are: FOLDER/NAME/VERSION.  [default: what the fleet's file says, or models]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON, on stdout.")


@click.group(
    epilog="""\b
Examples:
  python -m export build                             a new version of every model in models.yaml
  python -m export build digits                      of one model
  python -m export build --missing                   of the models that have no version yet
  python -m export build spam=train.spam:build       a model that is not in models.yaml
  python -m export list                              the versions there are

\b
Exit codes: 0 done; 1 an export failed; 2 wrong usage, a wrong models.yaml or a builder that can't be found;
130 stopped by Ctrl-C, 143 by SIGTERM."""
)
def main() -> None:
    """Exports TensorFlow models as versions that carry their own proof.

    A version is a SavedModel with golden requests and the answers that the model gave in process. It is written out of
    a server's sight, loaded in a fresh process that has none of the model's code, and put into its place only when
    the answers are the same there.
    """


@main.command(
    epilog="""\b
Examples:
  python -m export build                                         every model in models.yaml
  python -m export build --missing --json                        those without a version, the result as JSON
  python -m export build spam=train.spam:build --folder models   spam/, made by build() in train/spam.py"""
)
@click.argument("models", nargs=-1, metavar="[MODEL | NAME=MODULE:FUNCTION]...")
@fleet_option
@folder_option
@click.option("--missing", is_flag=True, help="Leaves out models that have a version already.")
@json_option
def build(models: tuple[str, ...], fleet: Path, folder: Path | None, missing: bool, as_json: bool) -> None:
    """Exports the fleet, or the MODELs named, each as a new version.

    NAME=MODULE:FUNCTION exports a model that the fleet doesn't have: the function is called without arguments and
    returns an export.servable.Servable. A version that exists is never touched. When one model fails the others are
    exported all the same, and the exit code is 1.
    """
    from export.exporter import Target
    from export.staging import check_writable

    with _ends_cleanly():
        selected = _select(models, fleet, folder)
        results: list[dict[str, Any]] = []
        targets = []
        for name, model in selected.models.items():
            versions = selected.versions(name)
            if missing and versions:
                results.append({"model": name, "status": "present", "version": versions[-1]})
                click.echo(f"{name}: version {versions[-1]} is there already", err=as_json)
            else:
                check_writable(selected.model_folder(name))
                targets.append(Target(name, model.builder, selected.model_folder(name)))
        failed = False
        for target, outcome in _export(targets):
            if isinstance(outcome, Exception):
                failed = True
                results.append({"model": target.model, "status": "failed", "error": str(outcome)})
                click.echo(f"Error: {target.model} was not exported: {outcome}", err=True)
            else:
                results.append(_as_json(outcome))
                click.echo(
                    f"{outcome.model}: version {outcome.version} in {_short(outcome.path)}, "
                    f"{outcome.proof.requests} golden requests verified {outcome.proof}",
                    err=as_json,
                )
        if as_json:
            click.echo(json.dumps({"models": results}, indent=2))
        if failed:
            sys.exit(1)


@main.command(
    "list",
    epilog="""\b
Examples:
  python -m export list
  python -m export list digits --json""",
)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@fleet_option
@folder_option
@json_option
def list_versions(models: tuple[str, ...], fleet: Path, folder: Path | None, as_json: bool) -> None:
    """Lists the versions of the fleet, or of the MODELs named: when they were made, and what was measured."""
    from export.manifest import ManifestError, read_manifest

    rows: list[dict[str, Any]] = []
    with _ends_cleanly():
        selected = _select(models, fleet, folder)
        for name in selected.models:
            for version in selected.versions(name):
                path = selected.model_folder(name) / str(version)
                row: dict[str, Any] = {"model": name, "version": version, "path": str(path)}
                try:
                    manifest = read_manifest(path)
                except ManifestError as error:
                    rows.append(row | {"error": str(error)})
                else:
                    rows.append(row | {"created": manifest.created.isoformat(), "metrics": manifest.metrics})
    if as_json:
        click.echo(json.dumps({"versions": rows}, indent=2))
        return
    if not rows:
        click.echo("There are no versions yet.", err=True)
    for row in rows:
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in row.get("metrics", {}).items())
        click.echo(f"{row['model']}  version {row['version']}  " + row.get("error", f"{row.get('created')}  {metrics}"))


def _select(models: Sequence[str], file: Path, folder: Path | None) -> Fleet:
    """A fleet of just what `models` names: all of `file` when nothing is, its models, and NAME=MODULE:FUNCTION."""
    from serving.fleet import BUILDER, NAME, Fleet, Model, read_fleet

    strangers: dict[str, Model] = {}
    for name, _, builder in (model.partition("=") for model in models if "=" in model):
        if not NAME.fullmatch(name):
            raise click.UsageError(
                f"{name!r} can't name a model: letters, digits, '_', '.' and '-', the first no '.' or '-'"
            )
        if not BUILDER.fullmatch(builder):
            raise click.UsageError(f"{name}={builder}: {builder!r} is not 'module:function'")
        strangers[name] = Model(builder=builder)
    names = tuple(model for model in models if "=" not in model)
    if names or not strangers:
        fleet = read_fleet(file)
        chosen = {name: fleet.models[name] for name in fleet.select(names)} | strangers
    else:
        # The fleet's file then only says which folder, and needn't be there.
        fleet = read_fleet(file) if file.exists() else Fleet(models=strangers)
        chosen = strangers
    return fleet.model_copy(update={"models": chosen, "folder": (folder or fleet.folder).absolute()})


def _export(targets: Sequence[Target]) -> Iterator[tuple[Target, Exported | Exception]]:
    """Exports `targets` one after the other: what came of each, an ExportError or OSError when it failed."""
    from export.builders import find_builder
    from export.console import Progress, import_tensorflow
    from export.errors import ExportError
    from export.exporter import export
    from export.proof import FreshProcess

    if not targets:
        return
    progress = Progress()
    with contextlib.ExitStack() as processes:
        progress.say("importing TensorFlow")
        ready = processes.enter_context(FreshProcess())
        import_tensorflow()
        builders = [find_builder(target.builder) for target in targets]
        for number, (target, builder) in enumerate(zip(targets, builders, strict=True), 1):
            fresh = ready
            if number < len(targets):
                # It imports TensorFlow while this model is made.
                ready = processes.enter_context(FreshProcess())
            outcome: Exported | Exception
            try:
                # What a builder prints is no result.
                with contextlib.redirect_stdout(sys.stderr):
                    outcome = export(target, builder, fresh, progress.say)
            except (ExportError, OSError) as error:
                outcome = error
            yield target, outcome


def _as_json(exported: Exported) -> dict[str, Any]:
    return {
        "model": exported.model,
        "status": "exported",
        "version": exported.version,
        "path": str(exported.path),
        "golden_requests": exported.proof.requests,
        "identical": exported.proof.identical,
        "largest_difference": exported.proof.largest,
        "metrics": exported.metrics,
        "seconds": exported.seconds,
    }


def _short(path: Path) -> str:
    """`path` as seen from here, when it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


@contextlib.contextmanager
def _ends_cleanly() -> Iterator[None]:
    """What the user got wrong ends the command with one error and exit code 2; Ctrl-C and SIGTERM end it quietly."""
    from export.errors import ExportError
    from serving.fleet import FleetError

    stopped_by = 0

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal stopped_by
        stopped_by = number
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        yield
    except BaseException as error:
        # TensorFlow's import, interrupted, can fail with another error than the interruption.
        if stopped_by:
            click.echo("Stopped; nothing half done is left.", err=True)
            sys.exit(128 + stopped_by)
        if isinstance(error, FleetError | ExportError):
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)
        raise
