"""What is computed of answers: the label that a row gets, accuracy, AUC, mean absolute error, and their noise."""

from __future__ import annotations

import importlib
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfserving.foundation.quality import MetricFunction, is_number
from tfserving.foundation.tensors import Array

# One-sided: how likely chance alone is to call a version worse. Two standard errors are about as likely.
SURE = 0.025
_RESAMPLES, _FEWEST_RESAMPLES, _SECONDS = 1000, 200, 5.0
# Resampled at a time, so that 100,000 rows take 80 MB.
_BATCH = 100
Answers = Mapping[str, Array]


class MeasureError(Exception):
    """A metric can't be computed of what was answered; the text says why."""


@dataclass(frozen=True)
class Noise:
    """How much worse one of two versions can be by chance on the same rows, why, and the outcome of the test."""

    worse: float
    why: str
    numbers: dict[str, Any]


def labels_of(output: str, answers: Answers, wanted: Array | None = None) -> Array | None:
    """The label that each row gets by `output`; None for numbers that are no label.

    The class with the highest score of scores, float (rows, classes), -1 where one is no number; where a classification
    has the classes' names, its name. A float for each row is a label only where `wanted` has labels: 1 above 0.5.
    Anything else is a label itself: integers, strings, booleans.
    """
    array = answers[output]
    if {"classes", "scores"} == answers.keys() and answers["scores"].ndim == 2:  # noqa: PLR2004 - rows and classes
        best = _likeliest(answers["scores"])
        names = answers["classes"]
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
    """For each row whether anything in it differs: bool (rows,)."""
    if new.shape != old.shape:
        return np.ones(len(new), bool)
    apart = new != old
    return np.asarray(apart.reshape(len(apart), -1).any(axis=1))


def function_of(metric: str, output: str) -> MetricFunction:
    """What computes a metric, which raises MeasureError for labels and answers that it can't be computed of."""
    if metric == "accuracy":
        return lambda labels, answers: float(_is_right(output, labels, answers).mean())
    if metric == "mae":
        return lambda labels, answers: float(_errors(output, labels, answers).mean())
    return _area(output) if metric == "auc" else _checked(metric, find_function(metric))


def noise_of(
    metric: str, function: MetricFunction, output: str, labels: Array, new: Answers, old: Answers, *, upward: bool
) -> Noise:
    """How much worse `new` can be than `old` by chance, by what `function_of` made. Raises MeasureError."""
    if metric == "accuracy":
        return _noise_of_accuracy(*(_is_right(output, labels, answers) for answers in (new, old)))
    if metric == "mae":
        apart = _errors(output, labels, new) - _errors(output, labels, old)
        return _bootstrapped(float(apart.mean()), lambda rows: apart[rows].mean(axis=-1), apart.size, upward=False)
    if metric == "auc":
        return _noise_of_area(output, labels, new, old)
    return _resampled(function, labels, new, old, upward=upward)


def find_function(name: str) -> MetricFunction:
    """The function 'module:function'; modules of the current folder are found, too. Raises MeasureError."""
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:
        raise MeasureError(f"{name} can't be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise MeasureError(f"{name} is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def _checked(name: str, function: MetricFunction) -> MetricFunction:
    """The function, which may raise anything or return anything."""

    def measured(labels: Array, outputs: Answers) -> float:
        try:
            found = function(labels, outputs)
        except (Exception, SystemExit) as error:
            raise MeasureError(f"{name} raised {type(error).__name__}: {error}") from error
        value = found.item() if isinstance(found, np.generic | np.ndarray) and found.size == 1 else found
        if not is_number(value):
            raise MeasureError(f"{name} returned {value!r:.80}, a finite number is needed")
        return float(value)

    return measured


def _noise_of_accuracy(new: Array, old: Array) -> Noise:
    """By the exact test of McNemar, which looks at the rows that only one version has right."""
    from scipy.stats import binom

    better, worse = int((new & ~old).sum()), int((old & ~new).sum())
    apart = better + worse
    # The most that chance explains, where each of these rows goes either way.
    chance = 2 * int(binom.isf(SURE, apart, 0.5)) - apart if apart else 0
    p_value = float(binom.sf(worse - 1, apart, 0.5)) if apart else 1.0
    numbers = {"test": "mcnemar", "rows_better": better, "rows_worse": worse, "p_value": p_value}
    return Noise(chance / len(new), f"McNemar's test, {apart} rows that one of them alone has right", numbers)


def _noise_of_area(output: str, labels: Array, new: Answers, old: Answers) -> Noise:
    """By the variance of DeLong, DeLong and Clarke-Pearson (1988), https://doi.org/10.2307/2531595 has it."""
    from scipy.stats import norm

    pairs = zip(_placements(output, labels, new), _placements(output, labels, old), strict=True)
    error = math.sqrt(sum(float(np.var(one - other, ddof=1)) / one.size for one, other in pairs if one.size > 1))
    numbers = {"test": "delong", "standard_error": error}
    return Noise(float(norm.isf(SURE)) * error, f"DeLong's test of {len(labels)} rows", numbers)


def _resampled(function: MetricFunction, labels: Array, new: Answers, old: Answers, *, upward: bool) -> Noise:
    """By a bootstrap of the rows, of as many samples as there is time for."""

    def difference(rows: Array) -> float:
        def some(answers: Answers) -> Answers:
            return {name: array[rows] for name, array in answers.items()}

        try:
            return function(labels[rows], some(new)) - function(labels[rows], some(old))
        except MeasureError:
            # Of rows of one class alone, say.
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
    """What chance does to the difference, new less old, a statistic of row numbers; always the same."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    def along_rows(numbers: Array, axis: int = -1) -> Any:  # noqa: ARG001 - scipy gives it
        return statistic(numbers)

    with warnings.catch_warnings():
        # Samples that have no such metric are left out below.
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
        raise MeasureError(f"{rows} rows are too few to know its noise: most samples of them have no such metric")
    low, high = (float(bound) for bound in np.quantile(found, [SURE, 1 - SURE]))
    # How far the difference can be from itself to the side on which the new one is better.
    noise = max(0.0, high - difference if upward else difference - low)
    return Noise(noise, f"a paired bootstrap of {rows} rows", {"test": "bootstrap", "low": low, "high": high})


def _is_right(output: str, labels: Array, answers: Answers) -> Array:
    """Whether each row has the right label: bool (rows,)."""
    found, wanted = labels_of(output, answers, labels), _plain(labels)
    assert found is not None
    if wanted.ndim > 1 and wanted.shape[1:] == (1,) * (wanted.ndim - 1):
        wanted = wanted.reshape(len(wanted))
    if found.shape != wanted.shape or _is_number(found) != _is_number(wanted):
        raise MeasureError(
            f"labels of {wanted.dtype} {wanted.shape} can't be compared with output {output!r}, "
            f"{answers[output].dtype} {answers[output].shape}"
        )
    return ~differ(found, wanted)


def _errors(output: str, labels: Array, answers: Answers) -> Array:
    """The absolute error of each row, the mean of its numbers: float64 (rows,)."""
    array = answers[output]
    if array.size != labels.size or not (_is_number(array) and _is_number(labels)):
        raise MeasureError(
            f"labels of {labels.dtype} {labels.shape} can't be compared with output {output!r}, "
            f"{array.dtype} {array.shape}"
        )
    wide = _finite(output, array).astype(np.float64)
    return np.asarray(np.abs(wide.reshape(len(labels), -1) - labels.reshape(len(labels), -1)).mean(axis=1))


def _area(output: str) -> MetricFunction:
    """The area under the ROC curve, as the share of pairs of rows that are in order."""

    def area(labels: Array, answers: Answers) -> float:
        return float(_placements(output, labels, answers)[0].mean())

    return area


def _placements(output: str, labels: Array, answers: Answers) -> tuple[Array, Array]:
    """Of each row labelled 1 the share of those labelled 0 below it, and of each of those the share of 1 above it."""
    from scipy.stats import rankdata

    scores, wanted = answers[output], labels.reshape(len(labels), -1)
    scores = scores.reshape(len(scores), -1)
    if scores.shape[1] not in (1, 2) or not _is_number(scores):
        raise MeasureError(f"auc needs one score a row, or two; output {output!r} is {answers[output].shape}")
    if wanted.shape[1] != 1 or not _is_number(wanted) or not np.isin(wanted, (0, 1)).all():
        raise MeasureError("auc needs labels 0 and 1, one a row")
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
        raise MeasureError(f"output {output!r} is not a number, or infinite, in {lost} of {len(array)} rows")
    return array


def _likeliest(scores: Array) -> Array:
    """The number of each row's highest score, -1 where one is not a number: int64 (rows, ...)."""
    flat = scores.astype(np.float64)
    return np.where(np.isnan(flat).any(axis=-1), -1, np.nan_to_num(flat, nan=0.0).argmax(axis=-1))


def _plain(array: Array) -> Array:
    """Strings as bytes whatever holds them; other arrays as they are."""
    if array.dtype.kind not in "OSU":
        return array
    found = np.empty(array.shape, np.object_)
    found.ravel()[:] = [one.encode() if isinstance(one, str) else one for one in array.ravel().tolist()]
    return found


def is_float(array: Array) -> bool:
    """Whether it holds floats, those of bfloat16 too."""
    # bfloat16 is of numpy's kind V.
    return array.dtype.kind in "fV"


def _is_number(array: Array) -> bool:
    return array.dtype.kind not in "OSU"
