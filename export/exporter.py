"""One export, from the builder to a proved version on disk.

    build ──► trace ──► lint ──► write ──┬──► lint the graph ──► ask the live model ──┬──► publish
                                         └──► a fresh process loads it, and is asked ──┘

A SavedModel that is there already is read instead of built and traced, and copied instead of written. Whatever fails
on the way leaves the model's folder as it was.
"""

from __future__ import annotations

import platform
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
from tfserving.export.lint import lint_answers, lint_graph
from tfserving.export.manifest import FileEntry, Manifest, ServedSignature, Versions, hash_files
from tfserving.export.options import Effect, Option, judge_with
from tfserving.export.proof import FreshProcess, Proof, is_large, prove
from tfserving.export.records import write_golden
from tfserving.export.savedmodel import read_signatures
from tfserving.export.source import Asking, Source
from tfserving.export.staging import Staging
from tfserving.export.tolerances import Judge
from tfserving.export.unchanged import same_version
from tfserving.foundation.evaluation import write_evaluation
from tfserving.foundation.golden import MANIFEST, GoldenRequest, versions_on_disk
from tfserving.foundation.manifest import EvaluationEntry
from tfserving.foundation.quality import MEASURES, Evaluation, Metric


@dataclass(frozen=True)
class Target:
    """What is to be exported: the model's name, the builder as 'module:function', and the folder of its versions.

    Or no builder, and the folder of a SavedModel, which is served as it is. The rest is as in models.yaml, and as the
    options of `tfserving export build`.
    """

    model: str
    builder: str | None
    folder: Path
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
    """A version that was exported, what options and checkpoint came to, and the seconds that each step took.

    `left_out` has the edge values that no golden request has. `same_as` is the newest version of before when that is
    the same: `version` itself when it was kept and nothing was made.
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
        """Whether the version is the one of before, which was kept."""
        return self.version == self.same_as


@dataclass
class _Steps:
    """Says which step begins, and measures it."""

    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        self.say(text)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)

    def leave_out(self, edges: LeftOut) -> None:
        """Notes edge values that no golden request has, and says so unless it is normal."""
        self.left_out.append(edges)
        if not edges.is_normal:
            self.say(str(edges))


def export(
    target: Target, builder: Callable[[], Any] | None, fresh: FreshProcess, say: Callable[[str], None]
) -> Exported:
    """Makes a new version of `target`; `fresh` is a process nobody used yet, `say` is told what happens now.

    `builder` is the function that the target names, None for a SavedModel.

    Raises BuilderError, ServableError or ProofError, and OSError when the disk refuses; nothing is left then.
    """
    steps = _Steps(lambda text: say(f"{target.model}: {text}"))
    rules = Rules(target.allow, steps.say, adopted=builder is None)
    source: Source
    with steps.step("build", f"reading {target.saved_model}" if builder is None else f"building with {target.builder}"):
        source = _adopt(target) if builder is None else _build(target, builder, steps.say)
        given = [request for file in target.golden for request in read_given(file, source.signatures)]
    judge = Judge()
    with steps.step(
        "trace", "holding its graph to the rules of lint" if builder is None else "making its signatures graphs"
    ):
        rules.require(source.prepare(_signatures_before(target.folder), target.allow))
    asking = Asking(judge, target.batch_sizes, target.allow, steps.leave_out, steps.say)
    requests: Iterable[GoldenRequest] = source.requests(given, asking)
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
        with steps.step("prove", "asking the live model and a fresh process the golden requests"):

            def linted(requests: Iterable[GoldenRequest]) -> Iterator[GoldenRequest]:
                # While the fresh process loads the version.
                rules.require(lint_graph(read_graph(staging.version_folder), signatures))
                yield from requests

            requests = linted(requests)
            if is_large(staging.version_folder):
                # Before the fresh process has a copy.
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
            rules.require(lint_answers(golden))
            if "empty-request" not in target.allow:
                check_empty(fresh, signatures, golden)
        with steps.step("publish", "flushing to disk"):
            manifest = partial(_manifest, target, source, signatures, judge, kept, steps.left_out)
            path, same_as = _published(target, staging, golden, source.evaluation, manifest, steps.say)
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
    """Raises ServableError when something is to be done to a SavedModel that is served as it is."""
    if target.saved_model and (unfit := [*target.options, *(["the checkpoint"] if target.checkpoint else [])]):
        raise ServableError(
            f"{', '.join(unfit)} would change it, and {target.saved_model} is served as it is; a builder with "
            "load_existing can do it (docs/export.md)"
        )


def _build(target: Target, builder: Callable[[], Any], say: Callable[[str], None]) -> Built:
    assert target.builder is not None
    with restores.watch() as noted:
        servable = run_builder(target.builder, builder)
    return Built(target.builder, servable, noted, target.checkpoint, say, partial=target.partial)


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
    say: Callable[[str], None],
) -> tuple[Path, int | None]:
    """Publishes what is staged, or keeps the version before that is the same: the path, and which one is the same."""
    write_golden(golden, target.model, staging.version_folder)
    if evaluation:
        write_evaluation(evaluation, target.model, staging.version_folder)
    files = hash_files(staging.version_folder)
    same_as = same_version(target.folder, staging.version_folder, manifest(files, 1), say)
    if target.if_changed and same_as is not None:
        return target.folder / str(same_as), same_as
    path = staging.publish(
        lambda number: (staging.version_folder / MANIFEST).write_text(manifest(files, number).text())
    )
    return path, same_as


def _evaluation(source: Source) -> EvaluationEntry | None:
    """What the manifest says of the labelled rows."""
    if (said := source.evaluation) is None:
        return None
    outputs = source.signatures[said.signature].outputs
    output = said.output or (outputs[0] if said.metric_name in MEASURES else None)
    return EvaluationEntry(said.signature, output, said.metric_name, said.rows, said.higher_is_better, said.drop)


def _signatures_before(model_folder: Path) -> dict[str, ServedSignature] | None:
    """The signatures of the newest version in `model_folder`; None when there is none that can be read."""
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
        tolerances={dtype: tolerance for dtype in dtypes if (tolerance := judge.chosen(dtype))},
        edge_values_left_out=by_signature(left_out),
        files=files,
        digest="",
    )
