"""Metrics of outputs: labels of rows, accuracy, AUC, mean absolute error, and their statistical noise."""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfserving.foundation.quality import MetricFunction, is_number
from tfserving.foundation.tensors import Array

# The one-sided probability that chance alone makes a version look worse. It is about that of two standard errors.
SURE = 0.025
_RESAMPLES, _FEWEST_RESAMPLES, _SECONDS = 1000, 200, 5.0
# Samples drawn at a time: 100,000 rows need 80 MB.
_BATCH = 100
Outputs = Mapping[str, Array]


class MeasureError(Exception):
    """A metric can't be computed from these outputs."""


@dataclass(frozen=True)
class Noise:
    """How much worse one of two versions can look by chance on the same rows, the test, and its numbers."""

    worse: float
    why: str
    numbers: dict[str, Any]


def labels_of(output: str, outputs: Outputs, wanted: Array | None = None) -> Array | None:
    """Return the label of each row in `output`; None for numbers that aren't labels.

    For scores, float (rows, classes), it is the class with the highest score, -1 if one is NaN; for a classification
    with class names, the name. One float for each row is a label only if `wanted` has labels: 1 above 0.5. Other values
    are labels themselves: integers, strings, booleans.
    """
    array = outputs[output]
    if {"classes", "scores"} == outputs.keys() and outputs["scores"].ndim == 2:  # noqa: PLR2004 - rows and classes
        best = _likeliest(outputs["scores"])
        names = outputs["classes"]
        named = names.any() and (wanted is None or not _is_number(wanted))
        return _plain(names[np.arange(len(names)), np.maximum(best, 0)]) if named else best
    if array.ndim > 1 and array.shape[1:] == (1,) * (array.ndim - 1):
        array = array.reshape(len(array))
    if not is_float(array):
        return _plain(array)
    if array.ndim == 1:
        return None if wanted is None else np.where(np.isfinite(array), array > 0.5, -1)  # noqa: PLR2004 - a half
    return _likeliest(array)


def differ(new: Array, old: Array) -> Array:
    """Return for each row whether anything in it differs: bool (rows,)."""
    if new.shape != old.shape:
        return np.ones(len(new), bool)
    apart = new != old
    return np.asarray(apart.reshape(len(apart), -1).any(axis=1))


def function_of(metric: str, output: str) -> MetricFunction:
    """Return the function of a metric. It raises MeasureError for labels and outputs that don't fit."""
    if metric == "accuracy":
        return lambda labels, outputs: float(_is_right(output, labels, outputs).mean())
    if metric == "mae":
        return lambda labels, outputs: float(_errors(output, labels, outputs).mean())
    return _area(output) if metric == "auc" else _checked(metric, find_function(metric))


def noise_of(
    metric: str, function: MetricFunction, output: str, labels: Array, new: Outputs, old: Outputs, *, upward: bool
) -> Noise:
    """Return how much worse `new` can look than `old` by chance, with the function of `function_of`.

    Raises MeasureError.
    """
    if metric == "accuracy":
        return _noise_of_accuracy(*(_is_right(output, labels, outputs) for outputs in (new, old)))
    if metric == "mae":
        apart = _errors(output, labels, new) - _errors(output, labels, old)
        return _bootstrapped(float(apart.mean()), lambda rows: apart[rows].mean(axis=-1), apart.size, upward=False)
    if metric == "auc":
        return _noise_of_area(output, labels, new, old)
    return _resampled(function, labels, new, old, upward=upward)


def find_function(name: str) -> MetricFunction:
    """Import the function 'module:function'; call it inside `in_project`. Raises MeasureError."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:
        raise MeasureError(f"cannot import {name}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise MeasureError(f"{name}: got {type(found).__name__}, expected a function")
    return found  # type: ignore[no-any-return]


def _checked(name: str, function: MetricFunction) -> MetricFunction:
    """Wrap a function that may raise or return anything."""

    def measured(labels: Array, outputs: Outputs) -> float:
        try:
            found = function(labels, outputs)
        except (Exception, SystemExit) as error:
            raise MeasureError(f"{name} raised {type(error).__name__}: {error}") from error
        value = found.item() if isinstance(found, np.generic | np.ndarray) and found.size == 1 else found
        if not is_number(value):
            raise MeasureError(f"{name} returned {value!r:.80}, expected a finite number")
        return float(value)

    return measured


def _noise_of_accuracy(new: Array, old: Array) -> Noise:
    """Return the noise by McNemar's exact test, from the rows that only one version gets right."""
    from scipy.stats import binom

    better, worse = int((new & ~old).sum()), int((old & ~new).sum())
    apart = better + worse
    # The largest difference that chance explains, if each of these rows is a coin toss.
    chance = 2 * int(binom.isf(SURE, apart, 0.5)) - apart if apart else 0
    p_value = float(binom.sf(worse - 1, apart, 0.5)) if apart else 1.0
    numbers = {"test": "mcnemar", "rows_better": better, "rows_worse": worse, "p_value": p_value}
    return Noise(chance / len(new), f"McNemar's test, rows that only one version gets right: {apart}", numbers)


def _noise_of_area(output: str, labels: Array, new: Outputs, old: Outputs) -> Noise:
    """Return the noise by the variance of DeLong, DeLong and Clarke-Pearson (1988), https://doi.org/10.2307/2531595."""
    from scipy.stats import norm

    pairs = zip(_placements(output, labels, new), _placements(output, labels, old), strict=True)
    error = math.sqrt(sum(float(np.var(one - other, ddof=1)) / one.size for one, other in pairs if one.size > 1))
    numbers = {"test": "delong", "standard_error": error}
    return Noise(float(norm.isf(SURE)) * error, f"DeLong's test of {len(labels)} rows", numbers)


def _resampled(function: MetricFunction, labels: Array, new: Outputs, old: Outputs, *, upward: bool) -> Noise:
    """Return the noise by a bootstrap of the rows, with as many samples as the time allows."""

    def difference(rows: Array) -> float:
        def some(outputs: Outputs) -> Outputs:
            return {name: array[rows] for name, array in outputs.items()}

        try:
            return function(labels[rows], some(new)) - function(labels[rows], some(old))
        except MeasureError:
            # For example, all rows of a sample have the same class.
            return math.nan

    started = time.monotonic()
    found = difference(np.arange(len(labels)))
    seconds = max(time.monotonic() - started, 1e-6)
    calls = max(_FEWEST_RESAMPLES, min(_RESAMPLES, int(_SECONDS / seconds)))
    return _bootstrapped(found, difference, len(labels), upward=upward, calls=calls, vectorized=False)


def _bootstrapped(
    difference: float,
    statistic: Callable[[Array], Any],
    rows: int,
    *,
    upward: bool,
    calls: int = _RESAMPLES,
    vectorized: bool = True,
) -> Noise:
    """Return the noise of the difference new - old, a statistic of row numbers. The result is deterministic."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    def along_rows(numbers: Array, axis: int = -1) -> Any:  # noqa: ARG001 - scipy gives it
        return statistic(numbers)

    with warnings.catch_warnings():
        # Samples without a value are left out below.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(
            (np.arange(rows),),
            along_rows if vectorized else statistic,
            n_resamples=calls,
            batch=_BATCH,
            vectorized=vectorized,
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
    found = found[np.isfinite(found)]
    if found.size < _FEWEST_RESAMPLES / 2:
        raise MeasureError(f"{rows} rows are too few for a bootstrap: the metric is undefined for most samples")
    low, high = (float(bound) for bound in np.quantile(found, [SURE, 1 - SURE]))
    # The distance from the difference to the bound on the side on which the new version is better.
    noise = max(0.0, high - difference if upward else difference - low)
    return Noise(noise, f"a paired bootstrap of {rows} rows", {"test": "bootstrap", "low": low, "high": high})


def _is_right(output: str, labels: Array, outputs: Outputs) -> Array:
    """Return whether each row has the right label: bool (rows,)."""
    found, wanted = labels_of(output, outputs, labels), _plain(labels)
    assert found is not None
    if wanted.ndim > 1 and wanted.shape[1:] == (1,) * (wanted.ndim - 1):
        wanted = wanted.reshape(len(wanted))
    if found.shape != wanted.shape or _is_number(found) != _is_number(wanted):
        raise MeasureError(
            f"cannot compare labels of {wanted.dtype} {wanted.shape} with output {output!r} of "
            f"{outputs[output].dtype} {outputs[output].shape}"
        )
    return ~differ(found, wanted)


def _errors(output: str, labels: Array, outputs: Outputs) -> Array:
    """Return the mean absolute error of each row: float64 (rows,)."""
    array = outputs[output]
    if array.size != labels.size or not (_is_number(array) and _is_number(labels)):
        raise MeasureError(
            f"cannot compare labels of {labels.dtype} {labels.shape} with output {output!r} of "
            f"{array.dtype} {array.shape}"
        )
    wide = _finite(output, array).astype(np.float64)
    return np.asarray(np.abs(wide.reshape(len(labels), -1) - labels.reshape(len(labels), -1)).mean(axis=1))


def _area(output: str) -> MetricFunction:
    """Return the area under the ROC curve: the share of pairs of rows in the right order."""

    def area(labels: Array, outputs: Outputs) -> float:
        return float(_placements(output, labels, outputs)[0].mean())

    return area


def _placements(output: str, labels: Array, outputs: Outputs) -> tuple[Array, Array]:
    """Return for each row labelled 1 the share of 0 rows below it, and for each row labelled 0 that of 1 rows above."""
    from scipy.stats import rankdata

    scores, wanted = outputs[output], labels.reshape(len(labels), -1)
    scores = scores.reshape(len(scores), -1)
    if scores.shape[1] not in (1, 2) or not _is_number(scores):
        raise MeasureError(
            f"auc needs one or two scores in each row; output {output!r} has the shape {outputs[output].shape}"
        )
    if wanted.shape[1] != 1 or not _is_number(wanted) or not np.isin(wanted, (0, 1)).all():
        raise MeasureError("auc needs one label in each row, 0 or 1")
    ones = wanted[:, 0].astype(bool)
    if ones.all() or not ones.any():
        raise MeasureError("auc needs rows of both labels, 0 and 1")
    numbers = _finite(output, scores)[:, -1].astype(np.float64)
    ranks = rankdata(numbers)
    above = (ranks[ones] - rankdata(numbers[ones])) / (~ones).sum()
    below = 1 - (ranks[~ones] - rankdata(numbers[~ones])) / ones.sum()
    return above, below


def _finite(output: str, array: Array) -> Array:
    if lost := int((~np.isfinite(array.astype(np.float64))).reshape(len(array), -1).any(axis=1).sum()):
        raise MeasureError(f"output {output!r} is NaN or infinite in {lost} of {len(array)} rows")
    return array


def _likeliest(scores: Array) -> Array:
    """Return the index of each row's highest score, -1 if one is NaN: int64 (rows, ...)."""
    flat = scores.astype(np.float64)
    return np.where(np.isnan(flat).any(axis=-1), -1, np.nan_to_num(flat, nan=0.0).argmax(axis=-1))


def _plain(array: Array) -> Array:
    """Return an array of strings as bytes; other arrays unchanged."""
    if array.dtype.kind not in "OSU":
        return array
    found = np.empty(array.shape, np.object_)
    found.ravel()[:] = [one.encode() if isinstance(one, str) else one for one in array.ravel().tolist()]
    return found


def is_float(array: Array) -> bool:
    """Return whether an array holds floats, including bfloat16."""
    # bfloat16 is of numpy's kind V.
    return array.dtype.kind in "fV"


def _is_number(array: Array) -> bool:
    return array.dtype.kind not in "OSU"
