"""One export, from the builder to a verified version on disk.

    build ──► trace ──► lint ──► write ──┬──► lint the graph ──► run the live model ───────────┬──► publish
                                         └──► a fresh process loads the version and runs it ───┘

An existing SavedModel is read instead of built and traced, and copied instead of written. A step that fails leaves the
model's folder as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from tfserving.export import restores
from tfserving.export.adopted import Adopted
from tfserving.export.attempts import Proven, Prover
from tfserving.export.builders import run_builder
from tfserving.export.built import Built
from tfserving.export.checkpoints import Restored
from tfserving.export.devices import Machine, this_machine, turn_tf32_off
from tfserving.export.edge_requests import LeftOut, by_signature
from tfserving.export.errors import ExportError, ServableError
from tfserving.export.findings import Rules
from tfserving.export.given import read_given
from tfserving.export.golden import LARGEST
from tfserving.export.manifest import FileEntry, Manifest, ServedSignature, hash_files
from tfserving.export.measured import Sets, measure
from tfserving.export.mlflow.model import MlflowModel
from tfserving.export.options import Effect, Option
from tfserving.export.origin import Origin
from tfserving.export.proof import FreshProcess, Proof
from tfserving.export.provenance import Provenance
from tfserving.export.records import write_golden
from tfserving.export.savedmodel import read_signatures
from tfserving.export.signing import Signer, why_not_signed
from tfserving.export.source import Making, Source
from tfserving.export.staging import Staging
from tfserving.export.steps import Steps
from tfserving.export.tolerances import TOLERANCES, Judge, from_table, to_measure
from tfserving.export.unchanged import same_version
from tfserving.foundation.command.progress import Progress
from tfserving.foundation.evaluation import write_evaluation
from tfserving.foundation.golden import MANIFEST, GoldenRequest, versions_on_disk
from tfserving.foundation.manifest import EvaluationEntry
from tfserving.foundation.quality import MEASURES, Metric
from tfserving.foundation.trust import Trust


@dataclass(frozen=True)
class Target:
    """A model to export: its name, its builder as 'module:function', and the folder of its versions.

    `saved_model`, instead of a builder, is the folder of a SavedModel, which is served as it is. `mlflow` is the model
    of MLflow that it is from, or whose Keras file the builder loads. `project` is the working folder of the builder,
    where its module is found first. `signer` signs the version, and `trust` verifies the signature of a version that is
    kept. The rest is as in models.yaml and as the options of `tfserving export build`.
    """

    model: str
    builder: str | None
    folder: Path
    project: Path = field(default_factory=Path.cwd)
    allow: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = (LARGEST,)
    golden: tuple[Path, ...] = ()
    options: tuple[Option, ...] = ()
    checkpoint: Path | None = None
    partial: bool = False
    saved_model: Path | None = None
    mlflow: MlflowModel | None = None
    if_changed: bool = False
    signer: Signer | None = None
    trust: Trust | None = None


@dataclass(frozen=True)
class Exported:
    """An exported version, the effects of options and checkpoint, and the seconds that each step took.

    `left_out` lists the edge values that no golden request contains. `same_as` is the previous version if it is the
    same as this one. It equals `version` when the previous version was kept and no new one was made. `signer`
    signed the new version.
    """

    model: str
    version: int
    path: Path
    proof: Proof
    metrics: dict[str, float | Metric]
    effects: tuple[Effect, ...]
    restored: Restored
    seconds: dict[str, float]
    left_out: tuple[LeftOut, ...]
    same_as: int | None = None
    signer: str | None = None

    @property
    def unchanged(self) -> bool:
        """Whether the previous version was kept."""
        return self.version == self.same_as


def export(
    target: Target,
    builder: Callable[[], Any] | None,
    fresh: FreshProcess,
    progress: Progress,
    machine: Machine | None = None,
) -> Exported:
    """Export a new version of `target` and return it. `fresh` is a process that has not loaded a version yet.

    `builder` is the function that the target names, None for a SavedModel. `machine` is by default this one. Raises
    BuilderError, ServableError, ProofError, or OSError when the disk refuses; nothing is left on disk then.
    """
    steps = Steps(target.model, progress)
    rules = Rules(target.allow, steps.note, adopted=builder is None)
    # The builder of an MLflow model is the toolkit's.
    origin = Origin(None if target.mlflow else target.builder, target.project, steps.note)
    source: Source
    what = f"reading {target.saved_model}" if builder is None else f"running {target.builder}"
    with steps.step("build", what, of_user=builder is not None):
        source = _adopt(target) if builder is None else _build(target, builder, steps.now)
        given = [request for file in target.golden for request in read_given(file, source.signatures)]
        if target.mlflow:
            given += target.mlflow.requests(source.signatures, steps.note)
    # A builder may have turned it on.
    turn_tf32_off()
    machine = machine or this_machine()
    with steps.step("trace", "checking its graph with lint" if builder is None else "tracing its signatures"):
        rules.require(source.prepare(_signatures_before(target.folder), target.allow))
        table = TOLERANCES if machine.device == "cpu" else to_measure(machine.device, source.arithmetic())
    judge = Judge(table)
    making = Making(judge, target.batch_sizes, target.allow, steps.leave_out, steps.note)
    requests: Iterable[GoldenRequest] = source.requests(given, making)
    effects: tuple[Effect, ...] = ()
    with Staging(target.folder) as staging:
        if isinstance(source, Built) and target.options:
            with steps.step("options", f"trying {', '.join(target.options)}"):
                requests = golden = list(requests)
                effects = source.improve(golden, target.options, staging.scratch, table)
        with Prover(source, requests, staging, steps, rules, target.allow, judge, fresh) as prover:
            proven, effects = prover.prove(effects)
        kept = tuple(effect.option for effect in effects if effect.kept)
        proven, sets = _sets(proven, source, machine, staging, steps)
        with steps.step("publish", f"{'signing and ' if target.signer else ''}flushing to disk"):
            provenance = origin.provenance(source.training_data)
            made = (target, source, provenance, proven.signatures, machine, sets, kept, steps.left_out)
            manifest = partial(_manifest, *made)
            path, same_as = _published(target, staging, proven.golden, source, manifest, steps.note)
    return Exported(
        target.model,
        int(path.name),
        path,
        replace(proven.proof, requests=len(proven.golden), device=machine.device),
        dict(source.metrics),
        effects,
        source.restored,
        steps.seconds,
        tuple(steps.left_out),
        same_as,
        None if target.signer is None or int(path.name) == same_as else target.signer.who,
    )


def _sets(proven: Proven, source: Source, machine: Machine, staging: Staging, steps: Steps) -> tuple[Proven, Sets]:
    """Return the sets of tolerances of the version, and the version without edge values that a device disputes."""
    dtypes = {spec.dtype for signature in proven.signatures.values() for spec in signature.outputs.values()}
    chosen = {dtype: one for dtype in sorted(dtypes) if (one := proven.judge.chosen(dtype))}
    if not machine.measurements:
        return proven, Sets(from_table(chosen, proven.arithmetic), {})
    with steps.step("measure", f"running the golden requests on {machine.golden}, with TF32, and on the processor"):
        golden, sets = measure(
            machine.measurements,
            staging.version_folder,
            proven.golden,
            chosen,
            proven.arithmetic,
            source.refused,
            steps.leave_out,
            steps.note,
        )
    return replace(proven, golden=golden), sets


def check_as_it_is(target: Target) -> None:
    """Raise ServableError when an option would change a SavedModel that is served as it is."""
    options = [f"--{option}" for option in target.options] + (["--from-checkpoint"] if target.checkpoint else [])
    if target.saved_model and options:
        raise ServableError(
            f"{', '.join(options)} can't be used with the SavedModel {target.saved_model}, which is served as it is. "
            "Write a builder that calls load_existing (docs/export.md)."
        )


def _build(target: Target, builder: Callable[[], Any], now: Callable[[str], None]) -> Built:
    assert target.builder is not None
    with restores.watch() as noted:
        servable = run_builder(target.builder, builder)
    built = Built(target.builder, servable, noted, target.checkpoint, now, partial=target.partial)
    if target.mlflow:
        built.made = tuple(servable.signatures)
    return built


def _adopt(target: Target) -> Adopted:
    assert target.saved_model is not None
    check_as_it_is(target)
    return Adopted(target.saved_model)


def _published(
    target: Target,
    staging: Staging,
    golden: Sequence[GoldenRequest],
    source: Source,
    manifest: Callable[[dict[str, FileEntry], int], Manifest],
    note: Callable[[str], None],
) -> tuple[Path, int | None]:
    """Publish the staged version, or keep the previous one if it is the same; return the path and the same version.

    With a signer, only a version that is signed is kept: another may have been changed in ways that don't show.
    """
    batched = [name for name, signature in source.signatures.items() if signature.batched]
    write_golden(golden, target.model, staging.version_folder, batched)
    if evaluation := source.evaluation:
        write_evaluation(evaluation, target.model, staging.version_folder)
    files = hash_files(staging.version_folder)
    same_as = same_version(target.folder, staging.version_folder, manifest(files, 1), note)
    if target.if_changed and same_as is not None:
        kept = target.folder / str(same_as)
        reason = target.signer and why_not_signed(kept, target.signer, target.trust, staging.scratch)
        if not reason:
            return kept, same_as
        note(f"version {same_as} is the same but is not kept: {reason}")
        same_as = None

    def finish(number: int) -> None:
        (staging.version_folder / MANIFEST).write_text(manifest(files, number).text())
        if target.signer:
            target.signer.sign(staging.version_folder, staging.scratch)

    return staging.publish(finish), same_as


def _evaluation(source: Source) -> EvaluationEntry | None:
    """Return the manifest's entry for the labelled rows."""
    if (rows := source.evaluation) is None:
        return None
    outputs = source.signatures[rows.signature].outputs
    output = rows.output or (outputs[0] if rows.metric_name in MEASURES else None)
    return EvaluationEntry(rows.signature, output, rows.metric_name, rows.rows, rows.higher_is_better, rows.drop)


def _signatures_before(model_folder: Path) -> dict[str, ServedSignature] | None:
    """Return the signatures of the newest version in `model_folder`; None when no version can be read."""
    versions = versions_on_disk(model_folder) if model_folder.is_dir() else {}
    try:
        return read_signatures(versions[max(versions)]) if versions else None
    except ExportError:
        return None


def _origin(target: Target) -> str | None:
    if target.mlflow:
        return target.mlflow.origin
    return str(target.saved_model.resolve()) if target.saved_model else None


def _manifest(
    target: Target,
    source: Source,
    provenance: Provenance,
    signatures: dict[str, ServedSignature],
    machine: Machine,
    sets: Sets,
    options: tuple[str, ...],
    left_out: Iterable[LeftOut],
    files: dict[str, FileEntry],
    version: int,
) -> Manifest:
    return Manifest(
        model=target.model,
        version=version,
        created=datetime.now(timezone.utc).replace(microsecond=0),
        builder=target.builder,
        saved_model=_origin(target),
        made_requests=source.made,
        checkpoint=target.checkpoint.name if target.checkpoint else None,
        options=options,
        provenance=provenance,
        metrics=dict(source.metrics),
        evaluation=_evaluation(source),
        signatures=signatures,
        unbatched=tuple(sorted(name for name, signature in source.signatures.items() if not signature.batched)),
        golden_device=machine.golden,
        tolerances={device: dict(found) for device, found in sets.tolerances.items()},
        measured=dict(sets.measured),
        edge_values_left_out=by_signature(left_out),
        files=files,
        digest="",
    )
