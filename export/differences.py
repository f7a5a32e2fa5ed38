"""How two versions differ: signatures, weights, metrics, outputs of the same golden requests, and provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfserving.export.changes import SignatureChange, signature_changes
from tfserving.export.manifest import Manifest, read_manifest
from tfserving.export.provenance_changes import ProvenanceChange, provenance_changes
from tfserving.export.rows import batch_of
from tfserving.export.savedmodel import read_signatures
from tfserving.export.tolerances import tolerance_text
from tfserving.export.weights import WeightChange, weight_changes
from tfserving.foundation.compare import Difference, Tolerance, Verdict, compare
from tfserving.foundation.devices import DEVICES, Device, device_kind
from tfserving.foundation.golden import MANIFEST, GoldenRequest, read_golden
from tfserving.foundation.quality import Metric, figure, higher_is_better, value_of
from tfserving.foundation.tensors import Array, dtype_of

if TYPE_CHECKING:
    from rich.table import Table


# The worst is the last.
_VERDICTS: tuple[Verdict, ...] = ("equal", "within tolerance", "different")


@dataclass(frozen=True)
class MetricChange:
    """A metric of both versions, None where one lacks it. `higher_is_better` is None when the direction is unknown."""

    metric: str
    old: float | None
    new: float | None
    higher_is_better: bool | None

    @property
    def verdict(self) -> str:
        """'better', 'worse', 'equal', 'added' or 'removed'; '' when the direction is unknown."""
        if self.old is None or self.new is None:
            return "added" if self.old is None else "removed"
        if self.old == self.new:
            return "equal"
        return "" if self.higher_is_better is None else _better(self.new > self.old, self.higher_is_better)


def _better(grew: bool, higher_is_better: bool) -> str:
    return "better" if grew == higher_is_better else "worse"


@dataclass(frozen=True)
class OutputChange:
    """The largest difference of an output, over all golden requests that both versions contain.

    `verdict` is "equal", "within tolerance" or "different". Rows within tolerance are not different.
    """

    signature: str
    output: str
    requests: int
    verdict: str
    largest: float | None
    rows: int
    rows_different: int


@dataclass(frozen=True)
class ToleranceChange:
    """A tolerance that differs, for a kind of device and a dtype of output; None where a version has none."""

    device: Device
    dtype: str
    old: Tolerance | None
    new: Tolerance | None


@dataclass(frozen=True)
class VersionDiff:
    """All differences between two versions.

    Outputs are within tolerance by the old version's set for `device`; None when it has none.
    """

    old: Path
    new: Path
    signatures: tuple[SignatureChange, ...]
    metrics: tuple[MetricChange, ...]
    weights: tuple[WeightChange, ...]
    weights_equal: int
    outputs: tuple[OutputChange, ...]
    requests_in_one_only: int
    tolerances: tuple[ToleranceChange, ...] = ()
    device: Device | None = None
    provenance: tuple[ProvenanceChange, ...] = ()

    @property
    def breaking(self) -> bool:
        """Whether clients of the old version fail with the new one."""
        return any(change.breaking for change in self.signatures)

    def as_json(self) -> dict[str, Any]:
        """Return the differences as JSON values."""
        return {
            "old": str(self.old),
            "new": str(self.new),
            "breaking": self.breaking,
            "signatures": [asdict(change) for change in self.signatures],
            "metrics": [{**asdict(change), "verdict": change.verdict} for change in self.metrics],
            "weights": [asdict(change) for change in self.weights],
            "weights_equal": self.weights_equal,
            "outputs": [asdict(change) for change in self.outputs],
            "requests_in_one_only": self.requests_in_one_only,
            "device": self.device,
            "tolerances": [asdict(change) for change in self.tolerances],
            "provenance": [asdict(change) for change in self.provenance],
        }

    def tables(self) -> Iterator[Table]:
        """Yield the differences as tables to print."""
        from tfserving.export.console import table

        changes = [(change.signature, change.what, "breaking" if change.breaking else "") for change in self.signatures]
        yield table("Signatures", ("signature", "change", ""), changes or [("all", "equal", "")])
        if self.metrics:
            rows = [(one.metric, *_numbers(one.old, one.new), one.verdict) for one in self.metrics]
            yield table("Metrics", ("metric", "old", "new", ""), rows)
        weights = [
            (
                f"{change.old_name} → {change.variable}" if change.old_name else change.variable,
                "renamed, equal" if change.what == "renamed" else change.what,
                _number(change.largest),
                _number(change.relative),
            )
            for change in self.weights
        ]
        rest = (f"{self.weights_equal} variables", "equal", "", "")
        yield table("Weights", ("variable", "change", "largest", "relative RMS"), [*weights, rest])
        outputs = [
            (change.signature, change.output, change.verdict, _number(change.largest), _rows(change))
            for change in self.outputs
        ]
        if self.requests_in_one_only:
            outputs.append((f"{self.requests_in_one_only} requests", "", "in one version only", "", ""))
        title = f"Golden outputs, compared with the old version's tolerances for {self.device}"
        nothing = [("no golden requests to compare", "", "", "", "")]
        yield table(
            title if self.device else "Golden outputs",
            ("signature", "output", "values", "largest", "rows different"),
            outputs or nothing,
        )
        if self.tolerances:
            sets = [(one.device, one.dtype, _tolerance(one.old), _tolerance(one.new)) for one in self.tolerances]
            yield table("Tolerances", ("device", "dtype", "old", "new"), sets)
        if self.provenance:
            parts = [(one.what, one.old or "none", one.new or "none") for one in self.provenance]
            yield table("Provenance", ("part", "old", "new"), parts)


def diff_versions(old: Path, new: Path) -> VersionDiff:
    """Return the differences between the versions, or any SavedModels, in `old` and `new`.

    Raises ExportError when one can't be read, GoldenError when its golden requests are damaged.
    """
    changes = signature_changes(read_signatures(old), read_signatures(new))
    weights, equal = weight_changes(old, new)
    manifests = [read_manifest(path) if (path / MANIFEST).exists() else None for path in (old, new)]
    golden = [read_golden(path).requests if one else () for path, one in zip((old, new), manifests, strict=True)]
    device, tolerances = _device(*manifests)
    outputs, unpaired = _outputs(golden[0], golden[1], tolerances)
    return VersionDiff(
        old,
        new,
        changes,
        tuple(_metrics(old, new)),
        tuple(weights),
        equal,
        tuple(outputs),
        unpaired,
        tuple(_tolerances(*manifests)),
        device,
        provenance_changes(*manifests),
    )


def _device(old: Manifest | None, new: Manifest | None) -> tuple[Device | None, Mapping[str, Tolerance]]:
    """Return the kind of device whose set compares golden outputs, and the set.

    When a GPU computed those of one version, the others differ by what GPUs round.
    """
    if old is None or new is None:
        return None, {}
    device = device_kind(gpu={old.golden_device, new.golden_device} != {"cpu"}, tf32=False)
    return (device, old.tolerances[device]) if device in old.tolerances else (None, {})


def _tolerances(old: Manifest | None, new: Manifest | None) -> Iterator[ToleranceChange]:
    if old is None or new is None:
        return
    for device in DEVICES:
        before, after = (one.tolerances.get(device, {}) for one in (old, new))
        for dtype in sorted(before.keys() | after.keys()):
            if before.get(dtype) != after.get(dtype):
                yield ToleranceChange(device, dtype, before.get(dtype), after.get(dtype))


def _metrics(old: Path, new: Path) -> Iterator[MetricChange]:
    before, after = (read_manifest(path).metrics if (path / MANIFEST).exists() else {} for path in (old, new))
    for name in sorted(before.keys() | after.keys()):
        was, now = (None if found is None else value_of(found) for found in (before.get(name), after.get(name)))
        declared = [metric for metric in (after.get(name), before.get(name)) if isinstance(metric, Metric)]
        yield MetricChange(name, was, now, higher_is_better(name, declared[0] if declared else None))


def _outputs(
    old: tuple[GoldenRequest, ...], new: tuple[GoldenRequest, ...], tolerances: Mapping[str, Tolerance]
) -> tuple[list[OutputChange], int]:
    """Return the differences of the outputs for the requests in both, and the number of requests in one only."""
    before = {request.identity: request for request in old}
    after = {request.identity: request for request in new}
    pairs: dict[tuple[str, str], list[tuple[Array, Array, int]]] = {}
    for key in before.keys() & after.keys():
        for output in before[key].outputs.keys() & after[key].outputs.keys():
            pairs.setdefault((before[key].signature, output), []).append(
                (after[key].outputs[output], before[key].outputs[output], batch_of(before[key]))
            )
    changes = [_output_change(*names, pairs[names], tolerances) for names in sorted(pairs)]
    return changes, len(before.keys() ^ after.keys())


def _output_change(
    signature: str, output: str, pairs: list[tuple[Array, Array, int]], tolerances: Mapping[str, Tolerance]
) -> OutputChange:
    differences = [compare(new, old, tolerances.get(dtype_of(old).name)) for new, old, _ in pairs]
    absolutes = [difference.absolute for difference in differences if difference.absolute is not None]
    verdict = max((difference.verdict for difference in differences), key=_VERDICTS.index)
    return OutputChange(
        signature,
        output,
        len(pairs),
        verdict,
        max(absolutes, default=None),
        sum(rows for _, _, rows in pairs),
        sum(
            _rows_different(new, old, difference, tolerances.get(dtype_of(old).name))
            for (new, old, _), difference in zip(pairs, differences, strict=True)
        ),
    )


def _rows_different(new: Array, old: Array, difference: Difference, tolerance: Tolerance | None) -> int:
    if difference.verdict != "different":
        return 0
    if new.shape != old.shape or not new.ndim:
        return len(new) if new.ndim else 1
    return sum(
        compare(new[row : row + 1], old[row : row + 1], tolerance).verdict == "different" for row in range(len(new))
    )


def _tolerance(one: Tolerance | None) -> str:
    return "none" if one is None else tolerance_text(one)


def _rows(change: OutputChange) -> str:
    return f"{change.rows_different} of {change.rows}"


def _numbers(old: float | None, new: float | None) -> tuple[str, str]:
    """Return both with enough digits to distinguish them."""
    if old is None or new is None:
        return "" if old is None else figure(old), "" if new is None else figure(new)
    return figure(old, new), figure(new, old)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
