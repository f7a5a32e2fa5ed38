"""Whether a version is worse by its builder's own metrics, which needs no server; and how gates say what is worse."""

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
# What can be accepted.
QUALITY: tuple[Gate, ...] = ("metric", "evaluation", "drift")
# How many standard errors of a difference are noise.
ERRORS = 2
# Where nothing is known of a metric's noise, so much of the old value is.
SHARE = 0.01


@dataclass(frozen=True)
class Allowed:
    """How much worse a value may be, and why that is so; '' where somebody said it."""

    worse: float
    why: str = ""

    def admits(self, worse: float) -> bool:
        """Whether a value may be so much worse. What is allowed is a decimal number, so differences are rounded."""
        return worse <= self.worse or math.isclose(worse, self.worse, rel_tol=1e-9)


def compare_metrics(fleet: Fleet, model: str, old: Path, new: Path) -> list[Figure]:
    """Compares the metrics of the manifests in two version folders, a figure for each.

    A metric fails where it is worse than the old one by more than is allowed, beyond a bound of models.yaml, gone, or
    named in models.yaml and in neither manifest. Raises GateError when a manifest can't be read, and when a file is not
    there that a later gate reads.
    """
    evaluation = fleet.models[model].evaluation
    for key, file in (
        (f"models.{model}.evaluation", evaluation and evaluation.file),
        ("rollout.shadow", fleet.rollout.shadow),
    ):
        if file and not file.is_file():
            raise GateError(f"{key}: there is no file {file}")
    before, after, limits = _metrics(old), _metrics(new), fleet.quality(model)
    names = list(dict.fromkeys([*after, *before, *limits]))
    pairs = {name: _Pair(before.get(name), after.get(name), old.name, new.name) for name in names}
    return [_compared(printable(name), pair, limits.get(name)) for name, pair in pairs.items()]


def require(figures: Sequence[Figure], saw: Callable[[Figure], None], *, accept: bool = False) -> None:
    """Hands `figures` to `saw`, those of quality that failed made warnings with `accept`.

    Raises GateError with the first that failed, after all others were handed over.
    """
    judged = [_accepted(one) if accept and one.gate in QUALITY and not one.passed else one for one in figures]
    failed = [one for one in judged if not one.passed]
    for one in judged:
        if one not in failed[:1]:
            saw(one)
    if failed:
        more = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
        hint = f"; {ACCEPT} rolls it out all the same" if all(one.gate in QUALITY for one in failed) else ""
        raise GateError(f"{failed[0].text}{more}{hint}", failed[0])


def _accepted(failed: Figure) -> Figure:
    text = f"warning: {failed.text}; accepted by {ACCEPT}"
    return replace(failed, text=text, passed=True, numbers={**failed.numbers, "accepted": True})


def worse_by(new: float, old: float, *, upward: bool) -> float:
    """How much worse the new value is; below 0 where it is better."""
    return old - new if upward else new - old


def sentence(
    name: str, new: float, old: float, old_version: object, allowed: Allowed, *, upward: bool, on: str = ""
) -> str:
    """Both values, measured `on` something, and how much worse the new one may be."""
    why = f" ({allowed.why})" if allowed.why else ""
    said = f"{name} {figure(new, old)}{on}, version {old_version} has {figure(old, new)}"
    return f"{said}: {allowed.worse:.3g} {less(upward)} is allowed{why}"


def beyond(value: float, limits: Limits | None) -> str:
    """What bound of models.yaml a value is beyond; '' for none."""
    if limits is None or limits.bound is None:
        return ""
    if limits.at_least is not None:
        return f"at least {limits.at_least:g} is needed" if value < limits.at_least else ""
    return f"at most {limits.bound:g} is allowed" if value > limits.bound else ""


@dataclass(frozen=True)
class _Pair:
    """A metric of both versions, None where one lacks it."""

    old: float | Metric | None
    new: float | Metric | None
    old_version: str
    new_version: str

    @property
    def declared(self) -> list[Metric]:
        """What says which way is better, the new version's first."""
        return [metric for metric in (self.new, self.old) if isinstance(metric, Metric)]


def _metrics(folder: Path) -> dict[str, float | Metric]:
    try:
        manifest = read_manifest_file(folder / MANIFEST)
        manifest.digest()
        return manifest.metrics()
    except ManifestError as error:
        raise GateError(str(error)) from None


def _compared(name: str, pair: _Pair, limits: MetricLimits | None) -> Figure:
    """What comes of one metric."""
    ways = {metric.higher_is_better for metric in pair.declared}
    ways |= set() if limits is None else {bool(limits.upward)}
    upward = next(iter(ways)) if ways else higher_is_better(name, None)
    numbers = {
        "metric": name,
        "new": None if pair.new is None else value_of(pair.new),
        "old": None if pair.old is None else value_of(pair.old),
        "higher_is_better": upward,
    }
    if len(ways) > 1:
        text = (
            f"{name}: models.yaml and the manifests of versions {pair.old_version} and {pair.new_version} don't agree "
            "on which way is better. at_least and drop are for a metric that is better higher, at_most and rise for "
            "one that is better lower"
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
        text = f"{both}: not judged, as nothing says which way is better (a Metric in the builder does)"
        return Figure("metric", text, numbers=numbers)
    allowed = _allowed(pair, limits)
    text = sentence(name, new, old, pair.old_version, allowed, upward=upward)
    passed = not wrong and allowed.admits(worse_by(new, old, upward=upward))
    numbers |= {"allowed": allowed.worse, "why": allowed.why}
    return Figure("metric", f"{text}; {wrong}" if wrong else text, passed, numbers=numbers)


def _missing(name: str, pair: _Pair) -> str:
    if pair.old is not None:
        has = f"version {pair.old_version} has {figure(value_of(pair.old))}"
        return f"{name} is not in version {pair.new_version}, {has}: a metric may not vanish"
    return (
        f"{name}: models.yaml names it, and neither version {pair.old_version} nor {pair.new_version} has it. "
        "`rollout.quality` is for metrics that every model has, `models.NAME.quality` for those of one"
    )


def _allowed(pair: _Pair, limits: MetricLimits | None) -> Allowed:
    """How much worse the new value may be: what models.yaml says, the manifests, the metric's noise, or 1 % of it."""
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
        # One that doesn't say has as many as the other.
        return Allowed(ERRORS * _error(new, rows[0], old, rows[-1]), f"{ERRORS} standard errors of {rows[0]} rows")
    return Allowed(SHARE * abs(old), f"{100 * SHARE:g} % of it, as its noise is not known")


def _error(new: float, new_rows: int, old: float, old_rows: int) -> float:
    """The standard error of the difference of two shares, with one row more of each kind, by Agresti and Caffo.

    Without these rows, a share of 1 would have no error. https://doi.org/10.1080/00031305.2000.10474560
    """
    shares = [((share * rows + 1) / (rows + 2), rows + 2) for share, rows in ((new, new_rows), (old, old_rows))]
    return math.sqrt(sum(share * (1 - share) / rows for share, rows in shares))
