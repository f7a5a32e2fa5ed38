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
from tfserving.export.servable import Servable
from tfserving.export.staging import Staging
from tfserving.export.tolerances import Judge
from tfserving.export.tracking import variables_of
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


@dataclass(frozen=True)
class Exported:
    """A version that was exported, what options and checkpoint came to, and the seconds that each step took.

    `left_out` has the edge values that no golden request has.
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
    requests: Iterable[GoldenRequest] = golden_requests(
        servable, judge, target.batch_sizes, given, steps.leave_out, target.allow
    )
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
                fresh, staging.version_folder, signatures, linted(requests), judge, refused, steps.leave_out, REASONS
            )
            savedmodel.check_built(servable, built)
            require_clean(lint_answers(golden), target.allow)
            if "empty-request" not in target.allow:
                check_empty(fresh, signatures, golden)
        with steps.step("publish", "flushing to disk"):
            write_golden(golden, target.model, staging.version_folder)
            if servable.evaluation:
                write_evaluation(servable.evaluation, target.model, staging.version_folder)
            files = hash_files(staging.version_folder)
            path = staging.publish(
                lambda version: (staging.version_folder / MANIFEST).write_text(
                    _manifest(target, version, servable, signatures, judge, kept, steps.left_out, files).text()
                )
            )
    return Exported(
        target.model,
        int(path.name),
        path,
        proof,
        dict(servable.metrics),
        effects,
        restored,
        steps.seconds,
        tuple(steps.left_out),
    )


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
    version: int,
    servable: Servable,
    signatures: dict[str, ServedSignature],
    judge: Judge,
    options: tuple[str, ...],
    left_out: Iterable[LeftOut],
    files: dict[str, FileEntry],
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
