"""`tfserving export build`."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.export.commands.selection import check_rules, ends_cleanly, folder_option, select, short
from tfserving.foundation.command.options import fleet_option, json_option

if TYPE_CHECKING:
    from tfserving.export.exporter import Exported, Target
    from tfserving.export.options import Option


@click.command(
    epilog="""\b
Examples:
  tfserving export build                                         every model in models.yaml
  tfserving export build --missing --json                        those without a version, the result as JSON
  tfserving export build --if-changed                            no new version of what is as it was
  tfserving export build spam=train.spam:build --folder models   spam/, made by build() in train/spam.py
  tfserving export build spam=exports/spam --golden spam.json    spam/, the SavedModel in exports/spam as it is
  tfserving export build --from-checkpoint runs/7 train.spam:untrained
                                                                 the latest checkpoint in runs/7
  tfserving export build digits --freeze --half                  weights as constants, of half the size"""
)
@click.argument("models", nargs=-1, metavar="[MODEL | [NAME=]MODULE:FUNCTION | NAME=SAVED_MODEL]...")
@fleet_option
@folder_option
@click.option("--missing", is_flag=True, help="Leaves out models that have a version already.")
@click.option("--if-changed", is_flag=True, help="Keeps the newest version of a model when the new one is the same.")
@click.option(
    "--from-checkpoint",
    "checkpoints",
    type=click.Path(path_type=Path),
    metavar="DIR | DIR/NAME",
    help="Restores the variables from the latest checkpoint in DIR, or from DIR/NAME, once the builder made the model.",
)
@click.option("--checkpoint", metavar="NAME", help="Which checkpoint in DIR, as in ckpt-12.  [default: the latest]")
@click.option(
    "--partial", is_flag=True, help="Lists variables that the checkpoint or the model lacks, instead of an error."
)
@click.option("--breaking", is_flag=True, help="Signatures may break clients of the version before.")
@click.option("--allow", multiple=True, metavar="RULE", help="A rule of docs/lint.md that may be broken; repeatable.")
@click.option(
    "--golden",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file with more golden requests; repeatable.",
)
@click.option("--freeze", is_flag=True, help="Variables become constants.")
@click.option("--optimize", is_flag=True, help="Grappler simplifies the graph; implies --freeze.")
@click.option("--half", is_flag=True, help="Weights are stored as float16, inputs and outputs stay; implies --freeze.")
@click.option("--xla", is_flag=True, help="The signatures are compiled with XLA when they are asked.")
@json_option
def build(
    models: tuple[str, ...],
    fleet: Path,
    folder: Path | None,
    missing: bool,
    if_changed: bool,
    checkpoints: Path | None,
    checkpoint: str | None,
    partial: bool,
    breaking: bool,
    allow: tuple[str, ...],
    golden: tuple[Path, ...],
    freeze: bool,
    optimize: bool,
    half: bool,
    xla: bool,
    as_json: bool,
) -> None:
    """Exports the fleet, or the MODELs named, each as a new version.

    NAME=MODULE:FUNCTION exports a model that the fleet doesn't have: the function is called without arguments and
    returns a tfserving.export.servable.Servable. NAME=SAVED_MODEL exports the SavedModel in that folder as it is. A
    version that exists is never touched. When one model fails the others are exported all the same, and the exit code
    is 1. --if-changed calls the builder and proves what it makes, too; a builder that trains anew usually makes other
    weights.

    --freeze, --optimize, --half and --xla are each kept only if all golden answers stay within tolerance; the size and
    the time of a call before and after are printed.
    """
    from tfserving.export.exporter import Target
    from tfserving.export.staging import check_writable

    with ends_cleanly():
        check_rules(allow)
        selected = select(models, fleet, folder)
        options = _options(freeze=freeze, optimize=optimize, half=half, xla=xla)
        prefix = _checkpoint(checkpoints, checkpoint, partial, [*selected.models])
        results: list[dict[str, Any]] = []
        targets = []
        for name, model in selected.models.items():
            versions = selected.versions(name)
            if missing and versions:
                results.append({"model": name, "status": "present", "version": versions[-1]})
                click.echo(f"{name}: version {versions[-1]} is there already", err=as_json)
                continue
            check_writable(selected.model_folder(name))
            targets.append(
                Target(
                    name,
                    model.builder,
                    selected.model_folder(name),
                    allow=(*model.allow, *allow, *(("breaking-change",) if breaking else ())),
                    batch_sizes=model.batch_sizes,
                    golden=(*model.golden, *golden),
                    options=options,
                    checkpoint=prefix,
                    saved_model=model.saved_model,
                    partial=partial,
                    if_changed=if_changed,
                )
            )
        failed = False
        for target, outcome in _export(targets):
            if isinstance(outcome, Exception):
                failed = True
                results.append({"model": target.model, "status": "failed", "error": str(outcome)})
                click.echo(f"Error: {target.model} was not exported: {outcome}", err=True)
            else:
                results.append(_as_json(outcome, prefix.name if prefix else None))
                _print(outcome, as_json)
        if as_json:
            # As they were named: what is known at once was told first.
            order = list(selected.models)
            results.sort(key=lambda result: order.index(result["model"]))
            click.echo(json.dumps({"models": results}, indent=2))
        if failed:
            sys.exit(1)


def _checkpoint(path: Path | None, name: str | None, partial: bool, models: Sequence[str]) -> Path | None:
    """The prefix of the checkpoint that the options name; None when they name none."""
    from tfserving.export.checkpoint_files import find_checkpoint

    if path is None and name:
        raise click.UsageError("--checkpoint says which; --from-checkpoint must say in what folder")
    if path is None and partial:
        raise click.UsageError("--partial is about a checkpoint; --from-checkpoint must say which")
    if path is None:
        return None
    if len(models) != 1:
        raise click.UsageError(f"a checkpoint is of one model; these are {', '.join(models)}")
    return find_checkpoint(path, name)


def _print(exported: Exported, as_json: bool) -> None:
    """Prints what was exported, and what of a checkpoint was not restored; on stderr when stdout is for JSON."""
    for path in exported.restored.kept:
        click.echo(f"{exported.model}: {path} is not in the checkpoint, and keeps the builder's value", err=True)
    for path in exported.restored.unused:
        click.echo(f"{exported.model}: {path} is in the checkpoint only, and is not used", err=True)
    for effect in exported.effects:
        click.echo(f"{exported.model}: {effect}", err=as_json)
    if exported.unchanged:
        where = f"version {exported.version} in {short(exported.path)}"
        click.echo(f"{exported.model}: unchanged, {where} is the same", err=as_json)
        return
    if exported.same_as is not None:
        click.echo(
            f"{exported.model}: version {exported.version} is the same as version {exported.same_as}, apart from its "
            "number; --if-changed keeps the old one",
            err=True,
        )
    click.echo(
        f"{exported.model}: version {exported.version} in {short(exported.path)}, "
        f"{exported.proof.requests} golden requests verified {exported.proof}",
        err=as_json,
    )


def _options(**wanted: bool) -> tuple[Option, ...]:
    from tfserving.export.options import OPTIONS

    chosen: list[Option] = [option for option in OPTIONS if wanted[option]]
    if "freeze" not in chosen and {"optimize", "half"} & set(chosen):
        chosen.insert(0, "freeze")
    return tuple(chosen)


def _export(targets: Sequence[Target]) -> Iterator[tuple[Target, Exported | Exception]]:
    """Exports `targets` one after the other: what came of each, an ExportError or OSError when it failed.

    TensorFlow is imported only when there is a builder that can be called, or a SavedModel.
    """
    from tfserving.export.builders import find_builder
    from tfserving.export.console import Progress, import_tensorflow
    from tfserving.export.errors import ExportError
    from tfserving.export.exporter import export
    from tfserving.export.proof import FreshProcess
    from tfserving.export.restores import watch
    from tfserving.export.user_code import raised

    there = []
    for target in targets:
        try:
            _look_at(target)
            there.append(target)
        except ExportError as error:
            yield target, error
    if not there:
        return
    progress = Progress()
    with contextlib.ExitStack() as processes:
        progress.say("importing TensorFlow")
        ready = processes.enter_context(FreshProcess())
        import_tensorflow()
        # A module may restore when it is imported.
        processes.enter_context(watch())
        builders: dict[str, Callable[[], Any] | None] = {}
        for target in there:
            try:
                # What a module or a builder prints is no result.
                with contextlib.redirect_stdout(sys.stderr):
                    builders[target.model] = find_builder(target.builder) if target.builder else None
            except ExportError as error:
                yield target, error
        found = [target for target in there if target.model in builders]
        for number, target in enumerate(found, 1):
            fresh = ready
            if number < len(found):
                # It imports TensorFlow while this model is made.
                ready = processes.enter_context(FreshProcess())
            outcome: Exported | Exception
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    outcome = export(target, builders[target.model], fresh, progress.say)
            except (ExportError, OSError) as error:
                outcome = error
            except Exception as error:
                # Of TensorFlow's or of this toolkit's: it is this model's, the others are exported.
                outcome = RuntimeError(f"{raised(error)}\n  raised at {_place(error)}")
            yield target, outcome


def _look_at(target: Target) -> None:
    """Raises ExportError when there is no builder, or no SavedModel that is served as it is, as far as files tell."""
    from tfserving.export.before_import import look_at
    from tfserving.export.copied import files_of
    from tfserving.export.exporter import check_as_it_is

    if target.builder:
        look_at(target.builder)
    elif target.saved_model:
        check_as_it_is(target)
        files_of(target.saved_model)


def _place(error: Exception) -> str:
    """The file and line that an error comes from, whoever wrote them."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{frame.filename}:{frame.lineno}, in {frame.name}"


def _as_json(exported: Exported, checkpoint: str | None) -> dict[str, Any]:
    from tfserving.export.edge_requests import by_signature
    from tfserving.foundation.quality import Metric

    return {
        "model": exported.model,
        "status": "unchanged" if exported.unchanged else "exported",
        "version": exported.version,
        "same_as": exported.same_as,
        "path": str(exported.path),
        "checkpoint": checkpoint,
        "kept": exported.restored.kept,
        "unused": exported.restored.unused,
        "golden_requests": exported.proof.requests,
        "identical": exported.proof.identical,
        "largest_difference": exported.proof.largest,
        "metrics": {
            name: asdict(metric) if isinstance(metric, Metric) else metric for name, metric in exported.metrics.items()
        },
        "options": [
            {
                "option": effect.option,
                "kept": effect.kept,
                "reason": effect.reason,
                "bytes": effect.size,
                "seconds": effect.seconds,
            }
            for effect in exported.effects
        ],
        "edge_values_left_out": by_signature(exported.left_out),
        "seconds": exported.seconds,
    }
