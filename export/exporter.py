"""One export, from the builder to a verified version on disk.

    build ──► trace ──► lint ──► write ──┬──► lint the graph ──► run the live model ───────────┬──► publish
                                         └──► a fresh process loads the version and runs it ───┘

An existing SavedModel is read instead of built and traced, and copied instead of written. A step that fails leaves the
model's folder as it was.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from tfserving.export import restores
from tfserving.export.adopted import Adopted
from tfserving.export.builders import run_builder
from tfserving.export.built import Built
from tfserving.export.checkpoints import Restored
from tfserving.export.edge_requests import LeftOut, by_signature
from tfserving.export.empty_requests import check_empty
from tfserving.export.errors import ExportError, ServableError
from tfserving.export.findings import Rules
from tfserving.export.given import read_given
from tfserving.export.golden import LARGEST
from tfserving.export.graph import read_graph
from tfserving.export.lint import lint_graph, lint_outputs
from tfserving.export.manifest import FileEntry, Manifest, ServedSignature, Versions, hash_files
from tfserving.export.options import Effect, Option, judge_with
from tfserving.export.proof import FreshProcess, Proof, is_large, prove
from tfserving.export.records import write_golden
from tfserving.export.savedmodel import read_signatures
from tfserving.export.source import Making, Source
from tfserving.export.staging import Staging
from tfserving.export.tolerances import Judge
from tfserving.export.unchanged import same_version
from tfserving.foundation.command.progress import Progress
from tfserving.foundation.evaluation import write_evaluation
from tfserving.foundation.golden import MANIFEST, GoldenRequest, versions_on_disk
from tfserving.foundation.manifest import EvaluationEntry
from tfserving.foundation.quality import MEASURES, Evaluation, Metric


@dataclass(frozen=True)
class Target:
    """A model to export: its name, its builder as 'module:function', and the folder of its versions.

    `saved_model`, instead of a builder, is the folder of a SavedModel, which is served as it is. `project` is the
    working folder of the builder, where its module is found first. The rest is as in models.yaml and as the options of
    `tfserving export build`.
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
    if_changed: bool = False


@dataclass(frozen=True)
class Exported:
    """An exported version, the effects of options and checkpoint, and the seconds that each step took.

    `left_out` lists the edge values that no golden request contains. `same_as` is the previous version if it is the
    same as this one. It equals `version` when the previous version was kept and no new one was made.
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

    @property
    def unchanged(self) -> bool:
        """Whether the previous version was kept."""
        return self.version == self.same_as


@dataclass
class _Steps:
    """Prints the steps of the export of `model`, and measures them."""

    model: str
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, text: str, *, of_user: bool = False) -> Iterator[None]:
        """Run a step. One that runs code `of_user`, which may print, has no line on a terminal that is rewritten."""
        if of_user and sys.stderr.isatty():
            self.note(text)
        else:
            self.now(text)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)

    def now(self, text: str) -> None:
        """Set the current step."""
        self.progress.update(f"{self.model}: {text}")

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.progress.line(f"{self.model}: {text}")

    def leave_out(self, edges: LeftOut) -> None:
        """Record edge values that no golden request contains, and print them unless that is normal."""
        self.left_out.append(edges)
        if not edges.is_normal:
            self.note(str(edges))

    def counted(self, requests: Iterable[GoldenRequest]) -> Iterator[GoldenRequest]:
        """Yield `requests`, and print how many there were so far."""
        for number, request in enumerate(requests, 1):
            self.now(f"running golden request {number} in the live model and a fresh process")
            yield request
        self.now("comparing the outputs of the fresh process")


def export(target: Target, builder: Callable[[], Any] | None, fresh: FreshProcess, progress: Progress) -> Exported:
    """Export a new version of `target` and return it. `fresh` is a process that has not loaded a version yet.

    `builder` is the function that the target names, None for a SavedModel. Raises BuilderError, ServableError,
    ProofError, or OSError when the disk refuses; nothing is left on disk then.
    """
    steps = _Steps(target.model, progress)
    rules = Rules(target.allow, steps.note, adopted=builder is None)
    source: Source
    what = f"reading {target.saved_model}" if builder is None else f"running {target.builder}"
    with steps.step("build", what, of_user=builder is not None):
        source = _adopt(target) if builder is None else _build(target, builder, steps.now)
        given = [request for file in target.golden for request in read_given(file, source.signatures)]
    judge = Judge()
    with steps.step("trace", "checking its graph with lint" if builder is None else "tracing its signatures"):
        rules.require(source.prepare(_signatures_before(target.folder), target.allow))
    making = Making(judge, target.batch_sizes, target.allow, steps.leave_out, steps.note)
    requests: Iterable[GoldenRequest] = source.requests(given, making)
    effects: tuple[Effect, ...] = ()
    kept: tuple[Option, ...] = ()
    with Staging(target.folder) as staging:
        if isinstance(source, Built) and target.options:
            with steps.step("options", f"trying {', '.join(target.options)}"):
                requests = golden = list(requests)
                effects = source.improve(golden, target.options, staging.scratch)
                if "half" in (kept := tuple(effect.option for effect in effects if effect.kept)):
                    judge = judge_with(kept)
        with steps.step("write", "writing the SavedModel"):
            signatures = source.write(staging.version_folder)
        with steps.step("prove", "running the golden requests in the live model and a fresh process"):

            def linted(requests: Iterable[GoldenRequest]) -> Iterator[GoldenRequest]:
                # The fresh process loads the version meanwhile.
                rules.require(lint_graph(read_graph(staging.version_folder), signatures))
                yield from requests

            requests = steps.counted(linted(requests))
            if is_large(staging.version_folder):
                # The live model is released before the fresh process loads a copy.
                requests = list(requests)
                source.release()
            golden, proof = prove(
                fresh,
                staging.version_folder,
                signatures,
                requests,
                judge,
                source.refused,
                steps.leave_out,
                source.reasons,
            )
            source.check()
            rules.require(lint_outputs(golden))
            if "empty-request" not in target.allow:
                check_empty(fresh, signatures, golden)
        with steps.step("publish", "flushing to disk"):
            manifest = partial(_manifest, target, source, signatures, judge, kept, steps.left_out)
            path, same_as = _published(target, staging, golden, source.evaluation, manifest, steps.note)
    return Exported(
        target.model,
        int(path.name),
        path,
        proof,
        dict(source.metrics),
        effects,
        source.restored,
        steps.seconds,
        tuple(steps.left_out),
        same_as,
    )


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
    return Built(target.builder, servable, noted, target.checkpoint, now, partial=target.partial)


def _adopt(target: Target) -> Adopted:
    assert target.saved_model is not None
    check_as_it_is(target)
    return Adopted(target.saved_model)


def _published(
    target: Target,
    staging: Staging,
    golden: Iterable[GoldenRequest],
    evaluation: Evaluation | None,
    manifest: Callable[[dict[str, FileEntry], int], Manifest],
    note: Callable[[str], None],
) -> tuple[Path, int | None]:
    """Publish the staged version, or keep the previous one if it is the same; return the path and the same version."""
    write_golden(golden, target.model, staging.version_folder)
    if evaluation:
        write_evaluation(evaluation, target.model, staging.version_folder)
    files = hash_files(staging.version_folder)
    same_as = same_version(target.folder, staging.version_folder, manifest(files, 1), note)
    if target.if_changed and same_as is not None:
        return target.folder / str(same_as), same_as
    path = staging.publish(
        lambda number: (staging.version_folder / MANIFEST).write_text(manifest(files, number).text())
    )
    return path, same_as


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


def _manifest(
    target: Target,
    source: Source,
    signatures: dict[str, ServedSignature],
    judge: Judge,
    options: tuple[str, ...],
    left_out: Iterable[LeftOut],
    files: dict[str, FileEntry],
    version: int,
) -> Manifest:
    import keras
    import numpy as np
    import tensorflow as tf

    dtypes = sorted({spec.dtype for signature in signatures.values() for spec in signature.outputs.values()})
    return Manifest(
        model=target.model,
        version=version,
        created=datetime.now(timezone.utc).replace(microsecond=0),
        builder=target.builder,
        saved_model=str(target.saved_model.resolve()) if target.saved_model else None,
        made_requests=source.made,
        checkpoint=target.checkpoint.name if target.checkpoint else None,
        options=options,
        versions=Versions(
            tensorflow=tf.__version__, keras=keras.__version__, numpy=np.__version__, python=platform.python_version()
        ),
        metrics=dict(source.metrics),
        evaluation=_evaluation(source),
        signatures=signatures,
        unbatched=tuple(sorted(name for name, signature in source.signatures.items() if not signature.batched)),
        tolerances={"cpu": {dtype: tolerance for dtype in dtypes if (tolerance := judge.chosen(dtype))}},
        edge_values_left_out=by_signature(left_out),
        files=files,
        digest="",
    )
