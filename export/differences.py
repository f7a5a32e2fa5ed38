"""How two versions differ: signatures, weights, metrics, and the outputs of the same golden requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfserving.export.changes import SignatureChange, signature_changes
from tfserving.export.manifest import read_manifest
from tfserving.export.rows import batch_of
from tfserving.export.savedmodel import read_signatures
from tfserving.export.weights import WeightChange, weight_changes
from tfserving.foundation.compare import Difference, compare
from tfserving.foundation.golden import MANIFEST, GoldenRequest, read_golden
from tfserving.foundation.quality import Metric, figure, higher_is_better, value_of
from tfserving.foundation.tensors import Array

if TYPE_CHECKING:
    from rich.table import Table


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
    """The largest difference of an output, over all golden requests that both versions contain."""

    signature: str
    output: str
    requests: int
    verdict: str
    largest: float | None
    rows: int
    rows_different: int


@dataclass(frozen=True)
class VersionDiff:
    """All differences between two versions."""

    old: Path
    new: Path
    signatures: tuple[SignatureChange, ...]
    metrics: tuple[MetricChange, ...]
    weights: tuple[WeightChange, ...]
    weights_equal: int
    outputs: tuple[OutputChange, ...]
    requests_in_one_only: int

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
        nothing = [("no golden requests to compare", "", "", "", "")]
        yield table(
            "Golden outputs", ("signature", "output", "values", "largest", "rows different"), outputs or nothing
        )


def diff_versions(old: Path, new: Path) -> VersionDiff:
    """Return the differences between the versions, or any SavedModels, in `old` and `new`.

    Raises ExportError when one can't be read, GoldenError when its golden requests are damaged.
    """
    changes = signature_changes(read_signatures(old), read_signatures(new))
    weights, equal = weight_changes(old, new)
    outputs, unpaired = _outputs(
        *(read_golden(path).requests if (path / MANIFEST).exists() else () for path in (old, new))
    )
    return VersionDiff(old, new, changes, tuple(_metrics(old, new)), tuple(weights), equal, tuple(outputs), unpaired)


def _metrics(old: Path, new: Path) -> Iterator[MetricChange]:
    before, after = (read_manifest(path).metrics if (path / MANIFEST).exists() else {} for path in (old, new))
    for name in sorted(before.keys() | after.keys()):
        was, now = (None if found is None else value_of(found) for found in (before.get(name), after.get(name)))
        declared = [metric for metric in (after.get(name), before.get(name)) if isinstance(metric, Metric)]
        yield MetricChange(name, was, now, higher_is_better(name, declared[0] if declared else None))


def _outputs(old: tuple[GoldenRequest, ...], new: tuple[GoldenRequest, ...]) -> tuple[list[OutputChange], int]:
    """Return the differences of the outputs for the requests in both, and the number of requests in one only."""
    before = {request.identity: request for request in old}
    after = {request.identity: request for request in new}
    pairs: dict[tuple[str, str], list[tuple[Array, Array, int]]] = {}
    for key in before.keys() & after.keys():
        for output in before[key].outputs.keys() & after[key].outputs.keys():
            pairs.setdefault((before[key].signature, output), []).append(
                (after[key].outputs[output], before[key].outputs[output], batch_of(before[key]))
            )
    return [_output_change(*names, pairs[names]) for names in sorted(pairs)], len(before.keys() ^ after.keys())


def _output_change(signature: str, output: str, pairs: list[tuple[Array, Array, int]]) -> OutputChange:
    differences = [compare(new, old) for new, old, _ in pairs]
    absolutes = [difference.absolute for difference in differences if difference.absolute is not None]
    verdict = "equal" if all(difference.verdict == "equal" for difference in differences) else "different"
    return OutputChange(
        signature,
        output,
        len(pairs),
        verdict,
        max(absolutes, default=None),
        sum(rows for _, _, rows in pairs),
        sum(
            _rows_different(new, old, difference) for (new, old, _), difference in zip(pairs, differences, strict=True)
        ),
    )


def _rows_different(new: Array, old: Array, difference: Difference) -> int:
    if difference.verdict == "equal":
        return 0
    if new.shape != old.shape or not new.ndim:
        return len(new) if new.ndim else 1
    return sum(compare(new[row : row + 1], old[row : row + 1]).verdict != "equal" for row in range(len(new)))


def _rows(change: OutputChange) -> str:
    return f"{change.rows_different} of {change.rows}"


def _numbers(old: float | None, new: float | None) -> tuple[str, str]:
    """Return both with enough digits to distinguish them."""
    if old is None or new is None:
        return "" if old is None else figure(old), "" if new is None else figure(new)
    return figure(old, new), figure(new, old)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
