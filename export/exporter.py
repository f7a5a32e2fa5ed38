"""One export, from the builder to a proved version on disk.

    build ──► ask the live model ──► write ──► prove in a fresh process ──► publish

Whatever fails on the way leaves the model's folder as it was.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from clients.golden import MANIFEST
from export import savedmodel
from export.builders import run_builder
from export.golden import golden_requests, write_golden
from export.manifest import FileEntry, Manifest, ServedSignature, Versions, hash_files
from export.proof import FreshProcess, Proof, prove
from export.servable import Servable
from export.staging import Staging
from export.tolerances import TOLERANCES


@dataclass(frozen=True)
class Target:
    """What is to be exported: the model's name, the builder as 'module:function', and the folder of its versions."""

    model: str
    builder: str
    folder: Path


@dataclass(frozen=True)
class Exported:
    """A version that was exported, and the seconds that each step took."""

    model: str
    version: int
    path: Path
    proof: Proof
    metrics: dict[str, float]
    seconds: dict[str, float]


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
        servable = run_builder(target.builder, builder)
    with steps.step("ask", "asking the live model for golden answers"):
        built = savedmodel.variables_of(servable.module)
        requests = golden_requests(servable)
        savedmodel.check_built(servable, built)
        functions = savedmodel.trace(servable)
    with Staging(target.folder) as staging:
        with steps.step("write", "writing the SavedModel"):
            signatures = savedmodel.write_savedmodel(servable, functions, staging.version_folder)
            write_golden(requests, target.model, staging.version_folder)
        with steps.step("prove", "comparing with a fresh process's answers"):
            answers = fresh.answer(staging.version_folder, staging.scratch, {target.builder.partition(".")[0]})
            proof = prove(answers, signatures, requests)
        with steps.step("publish", "flushing to disk"):
            files = hash_files(staging.version_folder)
            path = staging.publish(
                lambda version: _write_manifest(
                    staging.version_folder, _manifest(target, version, servable, signatures, files)
                )
            )
    return Exported(target.model, int(path.name), path, proof, dict(servable.metrics), steps.seconds)


def _manifest(
    target: Target,
    version: int,
    servable: Servable,
    signatures: dict[str, ServedSignature],
    files: dict[str, FileEntry],
) -> Manifest:
    import keras
    import numpy as np
    import tensorflow as tf

    dtypes = {spec.dtype for signature in signatures.values() for spec in signature.outputs.values()}
    return Manifest(
        model=target.model,
        version=version,
        created=datetime.now(timezone.utc).replace(microsecond=0),
        builder=target.builder,
        versions=Versions(
            tensorflow=tf.__version__, keras=keras.__version__, numpy=np.__version__, python=platform.python_version()
        ),
        metrics=dict(servable.metrics),
        signatures=signatures,
        tolerances={dtype: TOLERANCES[dtype] for dtype in sorted(dtypes & TOLERANCES.keys())},
        files=files,
    )


def _write_manifest(version_folder: Path, manifest: Manifest) -> None:
    (version_folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
