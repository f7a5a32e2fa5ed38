"""One export, from the builder to a proved version on disk.

    build ──► trace ──► lint ──► write ──┬──► lint the graph ──► ask the live model ──┬──► publish
                                         └──► a fresh process loads it, and is asked ──┘

Whatever fails on the way leaves the model's folder as it was.
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

from tfserving.export import restores, savedmodel
from tfserving.export.builders import run_builder
from tfserving.export.checkpoints import Restored, restore
from tfserving.export.edge_requests import LeftOut, by_signature
from tfserving.export.empty_requests import check_empty
from tfserving.export.errors import ExportError
from tfserving.export.given import read_given
from tfserving.export.golden import LARGEST, golden_requests
from tfserving.export.graph import read_graph
from tfserving.export.lint import lint_answers, lint_graph, lint_signatures, require_clean
from tfserving.export.manifest import FileEntry, Manifest, ServedSignature, Versions, hash_files
from tfserving.export.options import Effect, Option, improve, judge_with
from tfserving.export.proof import FreshProcess, Proof, prove
from tfserving.export.records import write_golden
from tfserving.export.servable import Evaluation, Servable
from tfserving.export.staging import Staging
from tfserving.export.tolerances import Judge
from tfserving.export.tracking import variables_of
from tfserving.export.unchanged import same_version
from tfserving.foundation.evaluation import write_evaluation
from tfserving.foundation.golden import MANIFEST, GoldenRequest, versions_on_disk
from tfserving.foundation.manifest import EvaluationEntry
from tfserving.foundation.quality import MEASURES, Metric

# Why a version mostly answers otherwise than the live model: as a function, which runs the graph as it was written, and
# in a session when it was right as a function.
REASONS = {
    "function": "a common reason: Python in the function that ran only once, when it was made a graph",
    "session": (
        "servers run the graph as TensorFlow's optimizer, Grappler, rewrites it; a common reason: constants that it "
        "multiplies with each other, too large or too small for their dtype"
    ),
}


@dataclass(frozen=True)
class Target:
    """What is to be exported: the model's name, the builder as 'module:function', and the folder of its versions.

    The rest is as in models.yaml, and as the options of `tfserving export build`.
    """

    model: str
    builder: str
    folder: Path
    allow: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = (LARGEST,)
    golden: tuple[Path, ...] = ()
    options: tuple[Option, ...] = ()
    checkpoint: Path | None = None
    partial: bool = False
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

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        self.say(text)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)


def export(target: Target, builder: Callable[[], Any], fresh: FreshProcess, say: Callable[[str], None]) -> Exported:
    """Makes a new version of `target`; `fresh` is a process nobody used yet, `say` is told what happens now.

    Raises BuilderError, ServableError or ProofError, and OSError when the disk refuses; nothing is left then.
    """
    steps = _Steps(lambda text: say(f"{target.model}: {text}"))
    with steps.step("build", f"building with {target.builder}"):
        with restores.watch() as watched:
            servable = run_builder(target.builder, builder)
        restored = Restored()
        given = [request for file in target.golden for request in read_given(file, servable.signatures)]
        if target.checkpoint:
            steps.say(f"restoring {target.checkpoint}")
            restored = restore(servable, target.checkpoint, partial=target.partial)
    judge = Judge()
    with steps.step("trace", "making its signatures graphs"):
        built = variables_of(servable.module)
        functions = savedmodel.trace(servable)
        savedmodel.check_built(servable, built)
        restores.check(watched, servable.module, functions)
        # The optimizers that it knows are no longer needed.
        del watched
        declared = savedmodel.described(servable, functions)
        require_clean(lint_signatures(declared, _signatures_before(target.folder)), target.allow)
    left_out: list[LeftOut] = []

    def note(values: LeftOut) -> None:
        left_out.append(values)
        if not values.is_normal:
            steps.say(str(values))

    requests: Iterable[GoldenRequest] = golden_requests(servable, judge, target.batch_sizes, given, note, target.allow)
    effects: tuple[Effect, ...] = ()
    kept: tuple[Option, ...] = ()
    with Staging(target.folder) as staging:
        if target.options:
            with steps.step("options", f"trying {', '.join(target.options)}"):
                requests = list(requests)
                functions, effects = improve(servable, functions, requests, target.options, staging.scratch)
                if "half" in (kept := tuple(effect.option for effect in effects if effect.kept)):
                    judge = judge_with(kept)
        with steps.step("write", "writing the SavedModel"):
            signatures = savedmodel.write_savedmodel(servable, functions, staging.version_folder)
        with steps.step("prove", "asking the live model and a fresh process the golden requests"):

            def linted(requests: Iterable[GoldenRequest]) -> Iterator[GoldenRequest]:
                # While the fresh process loads the version.
                require_clean(lint_graph(read_graph(staging.version_folder), signatures), target.allow)
                yield from requests

            refused = {target.builder.partition(".")[0].partition(":")[0]}
            golden, proof = prove(
                fresh, staging.version_folder, signatures, linted(requests), judge, refused, note, REASONS
            )
            savedmodel.check_built(servable, built)
            require_clean(lint_answers(golden), target.allow)
            if "empty-request" not in target.allow:
                check_empty(fresh, signatures, golden)
        with steps.step("publish", "flushing to disk"):
            manifest = partial(_manifest, target, servable, signatures, judge, kept, left_out)
            path, same_as = _published(target, staging, golden, servable.evaluation, manifest, steps.say)
    return Exported(
        target.model,
        int(path.name),
        path,
        proof,
        dict(servable.metrics),
        effects,
        restored,
        steps.seconds,
        tuple(left_out),
        same_as,
    )


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


def _evaluation(servable: Servable) -> EvaluationEntry | None:
    """What the manifest says of the labelled rows."""
    if (said := servable.evaluation) is None:
        return None
    outputs = servable.signatures[said.signature].outputs
    output = said.output or (outputs[0] if said.metric_name in MEASURES else None)
    return EvaluationEntry(said.signature, output, said.metric_name, said.rows, said.higher_is_better, said.drop)


def _signatures_before(model_folder: Path) -> dict[str, ServedSignature] | None:
    """The signatures of the newest version in `model_folder`; None when there is none that can be read."""
    versions = versions_on_disk(model_folder) if model_folder.is_dir() else {}
    try:
        return savedmodel.read_signatures(versions[max(versions)]) if versions else None
    except ExportError:
        return None


def _manifest(
    target: Target,
    servable: Servable,
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
        checkpoint=target.checkpoint.name if target.checkpoint else None,
        options=options,
        versions=Versions(
            tensorflow=tf.__version__, keras=keras.__version__, numpy=np.__version__, python=platform.python_version()
        ),
        metrics=dict(servable.metrics),
        evaluation=_evaluation(servable),
        signatures=signatures,
        tolerances={dtype: tolerance for dtype in dtypes if (tolerance := judge.chosen(dtype))},
        edge_values_left_out=by_signature(left_out),
        files=files,
        digest="",
    )
