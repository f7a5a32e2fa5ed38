"""The contents of a version, read without TensorFlow: of any SavedModel, and more if it has a manifest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from tfserving.export.chain import Use, links
from tfserving.export.check import check_files, check_signed
from tfserving.export.errors import ExportError
from tfserving.export.manifest import Manifest, ServedSignature, read_manifest
from tfserving.export.rows import batch_of
from tfserving.export.savedmodel import read_signatures
from tfserving.export.tolerances import tolerance_text
from tfserving.export.variables import Variable, Variables
from tfserving.foundation.devices import DEVICES
from tfserving.foundation.extras import missing_for_signatures
from tfserving.foundation.golden import MANIFEST, RECORDS, SAVED_MODEL, WARMUP, GoldenError, read_golden, request_of
from tfserving.foundation.manifest import SIGNATURE
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.quality import Metric, figure
from tfserving.foundation.records import RecordError, read_records
from tfserving.foundation.trust import Trust, TrustError
from tfserving.foundation.trust.bundle import read_bundle

if TYPE_CHECKING:
    from rich.table import Table

# Why no golden request contains some edge values.
NOT_SENT = {
    "fails": "left out, because the model raises an error",
    "changes": "left out, because they change the outputs of other rows",
    "differs": "left out, because the served graph and the model's Python code return different outputs",
}
PARTS = (SAVED_MODEL, "variables", "assets", "assets.extra")


@dataclass(frozen=True)
class Signed:
    """A version's signature: who it names, which proves nothing, and who of those that are trusted made it.

    `names` is None when there is no signature, `by` when none was verified. `problem` is why.
    """

    names: str | None = None
    by: str | None = None
    problem: str | None = None

    def __str__(self) -> str:
        if self.by:
            return f"by {self.by}, which is trusted"
        if self.problem or self.names is None:
            return self.problem or "no"
        return f"names {self.names}; not verified, because models.yaml has no `trust`"


@dataclass(frozen=True)
class Inspection:
    """A version. `state` is whether it is intact.

    `golden` and `warmup` have the batch sizes of golden and warm-up requests by signature.
    """

    path: Path
    signatures: Mapping[str, ServedSignature]
    variables: tuple[Variable, ...]
    sizes: Mapping[str, int]
    golden: Mapping[str, tuple[int, ...]]
    warmup: Mapping[str, tuple[int, ...]]
    manifest: Manifest | None
    state: str
    signed: Signed
    use: Use = field(default_factory=Use)

    @property
    def total(self) -> int:
        """Its size in bytes."""
        return sum(self.sizes.values())

    def as_json(self) -> dict[str, Any]:
        """Return the contents as JSON values."""
        return {
            "path": str(self.path),
            "state": self.state,
            "signed": asdict(self.signed),
            "signatures": {name: signature.model_dump() for name, signature in self.signatures.items()},
            "variables": [
                {"name": variable.name, "dtype": variable.dtype, "shape": variable.shape} for variable in self.variables
            ],
            "size_bytes": {**self.sizes, "total": self.total},
            "golden_requests": {name: list(batches) for name, batches in self.golden.items()},
            "warmup_requests": {name: list(batches) for name, batches in self.warmup.items()},
            "manifest": self.manifest.model_dump(mode="json") if self.manifest else None,
            "labels": self.use.labels,
            "served": None if self.use.served is None else [asdict(one) for one in self.use.served],
        }

    def tables(self) -> Iterator[Table]:
        """Yield the contents as tables to print."""
        yield _table(str(self.path), ("", ""), self._facts())
        if self.manifest:
            yield _table("From the commit to servers", ("", ""), links(self.manifest, str(self.signed), self.use))
        tensors = [
            (name, signature.method, f"{kind} {key}", f"{spec}{', optional' if key in signature.optional else ''}")
            for name, signature in self.signatures.items()
            for kind, specs in (("in", signature.inputs), ("out", signature.outputs))
            for key, spec in specs.items()
        ]
        yield _table("Signatures", ("signature", "method", "tensor", "dtype and shape"), tensors)
        if self.variables:
            rows = [(variable.name, f"{variable.dtype} {variable.shape}", variable.size) for variable in self.variables]
            yield _table("Variables", ("variable", "dtype and shape", "elements"), rows)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "state", self.state
        if self.manifest is None:
            yield "signed", str(self.signed)
        else:
            yield "model", f"{self.manifest.model}, version {self.manifest.version}"
            if self.manifest.made_requests:
                yield "golden requests", f"random values: {', '.join(self.manifest.made_requests)}"
            yield "golden outputs", f"computed on {self.manifest.golden_device}"
            if self.manifest.checkpoint:
                yield "checkpoint", self.manifest.checkpoint
            if self.manifest.options:
                yield "options", ", ".join(self.manifest.options)
            for name, metric in self.manifest.metrics.items():
                yield name, str(metric) if isinstance(metric, Metric) else figure(metric)
            if evaluation := self.manifest.evaluation:
                of = f" of {evaluation.output}" if evaluation.output else ""
                yield "evaluation", f"{evaluation.metric}{of}, {evaluation.rows} labelled rows"
            yield from _tolerances(self.manifest)
            yield from _left_out(self.manifest)
        for part, size in self.sizes.items():
            yield part, _bytes(size)
        yield "total", _bytes(self.total)
        for kind, found in (("golden", self.golden), ("warm-up", self.warmup)):
            for name, batches in found.items():
                alone = self.manifest is not None and name in self.manifest.unbatched
                of = "one example each" if alone else f"of {', '.join(map(str, batches))} rows"
                yield f"{kind}, {name}", f"{len(batches)} requests, {of}"


def _tolerances(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for device, dtypes in manifest.tolerances.items():
        for dtype, one in dtypes.items():
            on = f", measured on {manifest.measured[device]}" if device in manifest.measured else ""
            yield f"tolerance {dtype}, {device}", f"{tolerance_text(one)}{on}"
    missing = [device for device in DEVICES if device not in manifest.tolerances]
    if missing:
        yield "no tolerances", f"{', '.join(missing)}: outputs of such a server can't be verified"


def _left_out(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for name, left_out in manifest.edge_values_left_out.items():
        for why, edges in left_out.items():
            yield f"edge values, {name}", f"{NOT_SENT.get(why, why)}: {', '.join(edges)}"


def inspect_version(folder: Path, trust: Trust | None = None) -> Inspection:
    """Return the contents of the SavedModel in `folder`, and who of `trust` signed it.

    Raises ExportError when it can't be read.
    """
    signatures = read_signatures(folder)
    manifest, state = None, "no manifest: another program wrote it, so it can't be verified"
    if (folder / MANIFEST).exists():
        try:
            manifest = read_manifest(folder)
            check_files(folder)
            state = "intact: every file is as it was exported"
        except ExportError as error:
            state = str(error)
    return Inspection(
        folder,
        signatures,
        _variables(folder),
        {part: _size(folder / part) for part in PARTS},
        _golden(folder),
        _warmup(folder, manifest.unbatched if manifest else ()),
        manifest,
        state,
        _signed(folder, trust),
    )


def _signed(folder: Path, trust: Trust | None) -> Signed:
    """Return who signed the version in `folder`."""
    if not (folder / SIGNATURE).exists() and trust is None:
        return Signed()
    if missing := missing_for_signatures("export inspect"):
        return Signed(problem=f"not read: {missing}")
    names = None
    try:
        bundle = read_bundle(folder)
        names = bundle.claimed if bundle else None
        return Signed(names, check_signed(folder, trust)[1] if trust else None)
    except (ExportError, TrustError) as error:
        return Signed(names, problem=str(error))


def _variables(folder: Path) -> tuple[Variable, ...]:
    try:
        with Variables(folder) as variables:
            return tuple(variables.values())
    except ExportError:
        # The state reports that the file is damaged.
        return ()


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _golden(folder: Path) -> dict[str, tuple[int, ...]]:
    batches: dict[str, tuple[int, ...]] = {}
    try:
        golden = read_golden(folder) if (folder / RECORDS).exists() else None
    except GoldenError:
        # The state reports that its file is damaged.
        return {}
    for request in golden.requests if golden else ():
        rows = 1 if golden and request.signature in golden.unbatched else batch_of(request)
        batches[request.signature] = (*batches.get(request.signature, ()), rows)
    return batches


def _warmup(folder: Path, unbatched: Collection[str]) -> dict[str, tuple[int, ...]]:
    batches: dict[str, tuple[int, ...]] = {}
    try:
        for data in read_records(folder / WARMUP):
            request = request_of(PredictionLog.FromString(data), responded=False)
            rows = 1 if request.signature in unbatched else batch_of(request)
            batches[request.signature] = (*batches.get(request.signature, ()), rows)
    except (OSError, RecordError, DecodeError, ValueError):
        # The state reports that the file is damaged. Another program's can have other records.
        return {}
    return batches


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


def _table(title: str, columns: tuple[str, ...], rows: Any) -> Table:
    from tfserving.export.console import table

    return table(title, columns, rows)
