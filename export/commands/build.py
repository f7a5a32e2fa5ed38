"""`tfserving export build`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.export.commands.selection import (
    allow_option,
    breaking_option,
    check_rules,
    checked_input,
    folder_option,
    select,
    short,
    typed_models,
)
from tfserving.export.commands.signers import no_sign_option, sign_option, signer_of, trust_of, untrusted
from tfserving.foundation.command.errors import FAILED, WRONG, CommandError
from tfserving.foundation.command.options import complete_models, fleet_option, json_option

if TYPE_CHECKING:
    from tfserving.export.exporter import Exported, Target
    from tfserving.export.options import Option
    from tfserving.serving.models_yaml.fleet import Fleet


@click.command(
    epilog="""\b
Examples:
  tfserving export build                   every model of models.yaml
  tfserving export build --missing         those that have no version yet
  tfserving export build --if-changed      unchanged models keep their version
  tfserving export build digits --freeze --half
  tfserving export build spam=train.spam:build
                                           a model that models.yaml lacks
  tfserving export build spam=exports/spam --golden spam.json
                                           the SavedModel in exports/spam
  tfserving export build spam=models:/spam/3
                                           version 3 of a model of MLflow
  tfserving export build spam --from-checkpoint runs/7
                                           the latest checkpoint in runs/7
  tfserving export build digits --sign sign.key
                                           signed: docs/provenance.md"""
)
@click.argument(
    "models", nargs=-1, metavar="[MODEL|[NAME=]MODULE:FUNCTION|NAME=FOLDER]...", shell_complete=complete_models
)
@fleet_option
@folder_option
@click.option("--missing", is_flag=True, help="Skip models that have a version.")
@click.option("--if-changed", is_flag=True, help="Keep the newest version when the new one would be the same.")
@click.option(
    "--from-checkpoint",
    "checkpoints",
    type=click.Path(path_type=Path),
    metavar="DIR|DIR/NAME",
    help="Restore the variables from this checkpoint, or from the latest one in DIR, after the builder ran.",
)
@click.option("--checkpoint", metavar="NAME", help="The checkpoint in DIR, such as ckpt-12.  [default: the latest]")
@click.option(
    "--partial", is_flag=True, help="List variables that the checkpoint or the model lacks, and don't fail for them."
)
@breaking_option
@allow_option
@click.option(
    "--golden",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file with more golden requests. Repeatable.",
)
@click.option(
    "--batch-size",
    "batch_sizes",
    multiple=True,
    type=click.IntRange(1, 65536),
    help="A batch size of golden requests, instead of the model's batch_sizes. Repeatable. 1, 2 and 7 rows are added, "
    "and to the warm-up every power of two up to the largest.  [default: 32]",
)
@click.option("--freeze", is_flag=True, help="Turn variables into constants.")
@click.option("--optimize", is_flag=True, help="Let Grappler simplify the graph. Implies --freeze.")
@click.option(
    "--half", is_flag=True, help="Store weights as float16; inputs and outputs keep their dtype. Implies --freeze."
)
@click.option("--xla", is_flag=True, help="Compile the signatures with XLA at their first request.")
@sign_option
@no_sign_option
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
    batch_sizes: tuple[int, ...],
    freeze: bool,
    optimize: bool,
    half: bool,
    xla: bool,
    sign: str | None,
    no_sign: bool,
    as_json: bool,
) -> None:
    """Export new versions of the models.

    NAME=MODULE:FUNCTION exports a model that models.yaml lacks. The function is called without arguments and returns a
    tfserving.export.servable.Servable. NAME=FOLDER exports the SavedModel in that folder as it is, or the MLflow model
    in it. NAME=models:/MODEL/VERSION exports a model of MLflow's server. An existing version is never changed. When one
    model fails, the others are still exported, and the exit code is 1.

    --freeze, --optimize, --half and --xla each take effect only if all golden outputs stay within tolerance, in this
    process and in the proof. The size, the nodes and the time of a call before and after are printed.

    Golden outputs are computed on the GPU if there is one, without TF32, and tolerances are measured for the processor
    and for the GPU with and without TF32. Without a GPU the tolerances for GPUs come from a table (docs/export.md).
    """
    with checked_input():
        check_rules(allow)
        selected = select(models, fleet, folder)
        here = typed_models(models)
        options = _options(freeze=freeze, optimize=optimize, half=half, xla=xla)
        prefix = _checkpoint(checkpoints, checkpoint, partial, [*selected.models])
        if sign and no_sign:
            raise click.UsageError("--sign and --no-sign exclude each other")
        present = {name: found[-1] for name in selected.models if missing and (found := selected.versions(name))}
        wanted = [name for name in selected.models if name not in present]
        trust = trust_of((), selected) if wanted else None
        signer = signer_of(sign, selected, selected.folder) if wanted and not no_sign else None
        if wanted and (warning := untrusted(signer, trust)):
            click.echo(f"Warning: {warning}", err=True)
        targets = [
            _target(
                name,
                selected,
                signer=signer,
                trust=trust,
                project=Path.cwd() if name in here else Path(os.path.abspath(fleet)).parent,  # noqa: PTH100 - not its link
                allow=(*allow, *(("breaking-change",) if breaking else ())),
                golden=tuple(file.absolute() for file in golden),
                batch_sizes=tuple(sorted({*batch_sizes})),
                options=options,
                checkpoint=prefix,
                partial=partial,
                if_changed=if_changed,
            )
            for name in wanted
        ]
    results: list[dict[str, Any]] = [
        {"model": name, "status": "present", "version": version} for name, version in present.items()
    ]
    failed, code = _export(targets, results, as_json) if targets else ([], 0)
    if as_json:
        # In the order in which they were named.
        order = list(selected.models)
        results.sort(key=lambda result: order.index(result["model"]))
        click.echo(json.dumps({"models": results}, indent=2))
    elif missing and not targets:
        click.echo("Every model has a version.")
    if failed and as_json:
        raise CommandError("\n".join(failed), code)
    sys.exit(code)


def _target(
    name: str,
    fleet: Fleet,
    *,
    allow: tuple[str, ...],
    golden: tuple[Path, ...],
    batch_sizes: tuple[int, ...],
    **options: Any,
) -> Target:
    """Return a model of `fleet` as a target, with the options of the command."""
    # Nothing is imported when every model has a version.
    from tfserving.export.exporter import Target
    from tfserving.export.staging import check_writable

    model = fleet.models[name]
    check_writable(fleet.model_folder(name))
    return Target(
        name,
        model.builder,
        fleet.model_folder(name),
        allow=(*model.allow, *allow),
        batch_sizes=batch_sizes or model.batch_sizes,
        golden=(*model.golden, *golden),
        saved_model=model.saved_model,
        **options,
    )


def _export(targets: Sequence[Target], results: list[dict[str, Any]], as_json: bool) -> tuple[list[str], int]:
    """Export `targets`, print and append their results, and return the errors and the exit code."""
    from tfserving.export.several import export_all

    failed: list[str] = []
    started = False
    with contextlib.closing(export_all(targets)) as outcomes:
        for target, outcome in outcomes:
            started = started or outcome.started
            if outcome.error is not None:
                failed.append(f"{target.model} was not exported: {outcome.error}")
                results.append({"model": target.model, "status": "failed", "error": str(outcome.error)})
                if not as_json:
                    click.echo(f"Error: {failed[-1]}", err=True)
            elif outcome.exported is not None:
                results.append(_as_json(outcome.exported, target.checkpoint))
                _print(outcome.exported, as_json)
    return failed, (FAILED if started else WRONG) if failed else 0


def _checkpoint(path: Path | None, name: str | None, partial: bool, models: Sequence[str]) -> Path | None:
    """Return the prefix of the checkpoint that the options name; None when they name none."""
    from tfserving.export.checkpoint_files import find_checkpoint

    if path is None and name:
        raise click.UsageError(f"--checkpoint {name} needs --from-checkpoint DIR, the folder of the checkpoint")
    if path is None and partial:
        raise click.UsageError("--partial needs --from-checkpoint, which names the checkpoint")
    if path is None:
        return None
    if len(models) != 1:
        raise click.UsageError(f"--from-checkpoint needs exactly one model, got {', '.join(models)}")
    return find_checkpoint(path, name).absolute()


def _print(exported: Exported, as_json: bool) -> None:
    """Print what was exported, and what of a checkpoint was not restored; on stderr when stdout is for JSON."""
    for path in exported.restored.kept:
        click.echo(f"{exported.model}: {path} is not in the checkpoint and keeps the builder's value", err=True)
    for path in exported.restored.unused:
        click.echo(f"{exported.model}: {path} is only in the checkpoint and was not used", err=True)
    for effect in exported.effects:
        click.echo(f"{exported.model}: {effect}", err=as_json)
    where = f"version {exported.version} in {short(exported.path)}"
    if exported.unchanged:
        click.echo(f"{exported.model}: unchanged, {where} is the same", err=as_json)
        return
    if exported.same_as is not None:
        click.echo(
            f"{exported.model}: version {exported.version} differs from version {exported.same_as} only in its number "
            "and origin. --if-changed exports no version in this case.",
            err=True,
        )
    click.echo(
        f"{exported.model}: {where}, {exported.proof.requests} golden requests verified {exported.proof}", err=as_json
    )
    if exported.signer:
        click.echo(f"{exported.model}: signed by {exported.signer}", err=as_json)


def _options(**wanted: bool) -> tuple[Option, ...]:
    from tfserving.export.options import OPTIONS

    chosen: list[Option] = [option for option in OPTIONS if wanted[option]]
    if "freeze" not in chosen and {"optimize", "half"} & set(chosen):
        chosen.insert(0, "freeze")
    return tuple(chosen)


def _as_json(exported: Exported, checkpoint: Path | None) -> dict[str, Any]:
    from tfserving.export.edge_requests import by_signature
    from tfserving.foundation.quality import Metric

    return {
        "model": exported.model,
        "status": "unchanged" if exported.unchanged else "exported",
        "version": exported.version,
        "same_as": exported.same_as,
        "path": str(exported.path),
        "signed_by": exported.signer,
        "checkpoint": checkpoint.name if checkpoint else None,
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
                "size_bytes": _before_and_after(effect.size),
                "call_seconds": _before_and_after(effect.seconds),
                "nodes": _before_and_after(effect.nodes),
            }
            for effect in exported.effects
        ],
        "edge_values_left_out": by_signature(exported.left_out),
        "step_seconds": exported.seconds,
    }


def _before_and_after(values: tuple[float, float] | None) -> dict[str, float] | None:
    return None if values is None else dict(zip(("before", "after"), values, strict=True))
