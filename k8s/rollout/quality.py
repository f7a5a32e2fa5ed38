"""The gate `metric`: compare the metrics in the manifests of two versions. No server is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tfserving.clients.printable import printable
from tfserving.foundation.golden import MANIFEST
from tfserving.foundation.manifest import ManifestError, read_manifest_file
from tfserving.foundation.quality import Metric, figure, higher_is_better, less, value_of
from tfserving.k8s.rollout.state import Figure, Gate
from tfserving.k8s.rollout.target import GateError
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.quality import Limits, MetricLimits

ACCEPT = "--accept-quality"
# The gates that --accept-quality accepts.
QUALITY: tuple[Gate, ...] = ("metric", "evaluation", "drift")
# A difference of up to this many standard errors is noise.
ERRORS = 2
# If the noise of a metric is unknown, this share of the old value is allowed.
SHARE = 0.01


@dataclass(frozen=True)
class Allowed:
    """How much worse a value may be, and why; '' for a limit that was set."""

    worse: float
    why: str = ""

    def admits(self, worse: float) -> bool:
        """Return whether a value may be so much worse. Limits are decimal numbers, so differences are rounded."""
        return worse <= self.worse or math.isclose(worse, self.worse, rel_tol=1e-9)


def compare_metrics(fleet: Fleet, model: str, old: Path, new: Path) -> list[Figure]:
    """Compare the metrics in the manifests of two version folders; return a figure for each.

    A metric fails when it is worse by more than is allowed, beyond a bound of models.yaml, missing in the new version,
    or in models.yaml and neither manifest. Raises GateError when a manifest can't be read, or a file that a later gate
    needs doesn't exist.
    """
    evaluation = fleet.models[model].evaluation
    for key, file in (
        (f"models.{model}.evaluation", evaluation and evaluation.file),
        ("rollout.shadow", fleet.rollout.shadow),
    ):
        if file and not file.is_file():
            raise GateError(f"{key}: the file {file} does not exist")
    before, after, limits = _metrics(old), _metrics(new), fleet.quality(model)
    names = list(dict.fromkeys([*after, *before, *limits]))
    pairs = {name: _Pair(before.get(name), after.get(name), old.name, new.name) for name in names}
    return [_compared(printable(name), pair, limits.get(name)) for name, pair in pairs.items()]


def require(figures: Sequence[Figure], saw: Callable[[Figure], None], *, accept: bool = False) -> None:
    """Pass `figures` to `saw`; with `accept`, failed figures of quality become warnings.

    Raises GateError with the first failed figure, after all others were passed.
    """
    judged = [_accepted(one) if accept and one.gate in QUALITY and not one.passed else one for one in figures]
    failed = [one for one in judged if not one.passed]
    for one in judged:
        if one not in failed[:1]:
            saw(one)
    if failed:
        more = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
        hint = f". Use {ACCEPT} to roll it out anyway." if all(one.gate in QUALITY for one in failed) else ""
        raise GateError(f"{failed[0].text}{more}{hint}", failed[0])


def _accepted(failed: Figure) -> Figure:
    text = f"warning: {failed.text}; accepted by {ACCEPT}"
    return replace(failed, text=text, passed=True, numbers={**failed.numbers, "accepted": True})


def worse_by(new: float, old: float, *, upward: bool) -> float:
    """Return how much worse the new value is; negative if it is better."""
    return old - new if upward else new - old


def sentence(
    name: str, new: float, old: float, old_version: object, allowed: Allowed, *, upward: bool, on: str = ""
) -> str:
    """Return both values, what they were measured `on`, and how much worse the new one may be."""
    why = f" ({allowed.why})" if allowed.why else ""
    values = f"{name} {figure(new, old)}{on}, version {old_version} has {figure(old, new)}"
    return f"{values}; at most {allowed.worse:.3g} {less(upward)} is allowed{why}"


def beyond(value: float, limits: Limits | None) -> str:
    """Return the bound of models.yaml that a value violates; '' for none."""
    if limits is None or limits.bound is None:
        return ""
    if limits.at_least is not None:
        return f"at least {limits.at_least:g} is required" if value < limits.at_least else ""
    return f"at most {limits.bound:g} is allowed" if value > limits.bound else ""


@dataclass(frozen=True)
class _Pair:
    """A metric of both versions; None if a version lacks it."""

    old: float | Metric | None
    new: float | Metric | None
    old_version: str
    new_version: str

    @property
    def declared(self) -> list[Metric]:
        """The metrics that define whether higher is better, the new version's first."""
        return [metric for metric in (self.new, self.old) if isinstance(metric, Metric)]


def _metrics(folder: Path) -> dict[str, float | Metric]:
    try:
        manifest = read_manifest_file(folder / MANIFEST)
        manifest.digest()
        return manifest.metrics()
    except ManifestError as error:
        raise GateError(str(error)) from None


def _compared(name: str, pair: _Pair, limits: MetricLimits | None) -> Figure:
    """Return the figure of one metric."""
    directions = {metric.higher_is_better for metric in pair.declared}
    directions |= set() if limits is None else {bool(limits.upward)}
    upward = next(iter(directions)) if directions else higher_is_better(name, None)
    numbers = {
        "metric": name,
        "new": None if pair.new is None else value_of(pair.new),
        "old": None if pair.old is None else value_of(pair.old),
        "higher_is_better": upward,
    }
    if len(directions) > 1:
        text = (
            f"{name}: models.yaml and the manifests of versions {pair.old_version} and {pair.new_version} disagree "
            "on whether higher is better. at_least and drop are for a metric where higher is better, at_most and rise "
            "for one where lower is better"
        )
        return Figure("metric", text, False, numbers=numbers)
    if pair.new is None:
        return Figure("metric", _missing(name, pair), False, numbers=numbers)
    new, wrong = value_of(pair.new), beyond(value_of(pair.new), limits)
    if pair.old is None:
        text = f"{name} {figure(new)}, version {pair.old_version} has none"
        return Figure("metric", f"{text}: {wrong}" if wrong else text, not wrong, numbers=numbers)
    old = value_of(pair.old)
    if upward is None:
        both = f"{name} {figure(new, old)}, version {pair.old_version} has {figure(old, new)}"
        text = f"{both}: not compared, since it is unknown whether higher is better (use a Metric in the builder)"
        return Figure("metric", text, numbers=numbers)
    allowed = _allowed(pair, limits)
    text = sentence(name, new, old, pair.old_version, allowed, upward=upward)
    passed = not wrong and allowed.admits(worse_by(new, old, upward=upward))
    numbers |= {"allowed": allowed.worse, "why": allowed.why}
    return Figure("metric", f"{text}; {wrong}" if wrong else text, passed, numbers=numbers)


def _missing(name: str, pair: _Pair) -> str:
    if pair.old is not None:
        has = f"version {pair.old_version} has {figure(value_of(pair.old))}"
        return f"version {pair.new_version} lacks the metric {name}, {has}"
    return (
        f"{name}: models.yaml has limits for it, and neither version {pair.old_version} nor {pair.new_version} has it. "
        "`rollout.quality` is for metrics that every model has, `models.NAME.quality` for those of one model"
    )


def _allowed(pair: _Pair, limits: MetricLimits | None) -> Allowed:
    """Return how much worse the new value may be: by models.yaml, the manifests, the metric's noise, or 1 %."""
    if limits is not None and limits.worse is not None:
        return Allowed(limits.worse)
    for metric in pair.declared:
        if metric.drop is not None:
            return Allowed(metric.drop)
    assert pair.old is not None
    assert pair.new is not None
    rows = [metric.rows for metric in pair.declared if metric.rows]
    new, old = value_of(pair.new), value_of(pair.old)
    if rows and 0 <= min(new, old) <= max(new, old) <= 1:
        # A version without a number of rows has as many as the other.
        return Allowed(ERRORS * _error(new, rows[0], old, rows[-1]), f"{ERRORS} standard errors of {rows[0]} rows")
    return Allowed(SHARE * abs(old), f"{100 * SHARE:g} % of the old value, since its noise is unknown")


def _error(new: float, new_rows: int, old: float, old_rows: int) -> float:
    """Return the standard error of the difference of two shares, by Agresti and Caffo, with one more row of each kind.

    Without these rows, a share of 1 would have no error. https://doi.org/10.1080/00031305.2000.10474560
    """
    shares = [((share * rows + 1) / (rows + 2), rows + 2) for share, rows in ((new, new_rows), (old, old_rows))]
    return math.sqrt(sum(share * (1 - share) / rows for share, rows in shares))
