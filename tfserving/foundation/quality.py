"""The quality of a version: metrics that its builder measured, and labelled rows to measure a served version with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from tfserving.foundation.tensors import Array, dtype_of

# What an evaluation computes of the outputs by itself; any other metric is a function, 'module:function'.
Measure = Literal["accuracy", "auc", "mae"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
# A function of the labels and of the outputs by name, arrays with one row for each label; it returns a finite number.
MetricFunction: TypeAlias = Callable[[Array, Mapping[str, Array]], float]
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
# Of fewer rows, chance explains every difference.
FEWEST_ROWS = 10
# More rows take minutes to send, and make a metric no surer than rollouts need it.
MOST_ROWS = 100_000
LARGEST_BYTES = 256 << 20
# Words in a metric's name that tell which way is better.
_HIGHER = {"acc", "accuracy", "auc", "auroc", "bleu", "dice", "f1", "iou", "map", "mrr", "ndcg", "precision", "r2"}
_HIGHER |= {"recall", "rouge", "sensitivity", "specificity"}
_LOWER = {"brier", "cer", "crossentropy", "error", "logloss", "loss", "mae", "mape", "mse", "perplexity", "rmse", "wer"}


@dataclass(frozen=True)
class Metric:
    """A figure that a builder measured, and how to compare it with that of another version.

    `drop` is how much worse a new version may be, in the metric's own unit: lower, or higher where
    `higher_is_better` is False. `rows` is given when the metric is a share of that many rows, as an accuracy is; its
    noise follows from that. Raises ValueError for a wrong value.
    """

    # A manifest with other keys is of another form.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - pydantic reads it
    value: float
    higher_is_better: bool = True
    drop: float | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        if not is_number(self.value):
            raise ValueError(
                f"value: got {self.value!r}, expected a finite number (float(...) converts one of numpy's)"
            )
        if type(self.higher_is_better) is not bool:
            raise ValueError(f"higher_is_better: got {self.higher_is_better!r}, expected True or False")
        if self.drop is not None and not (is_number(self.drop) and self.drop >= 0):
            raise ValueError(f"drop: got {self.drop!r}, expected a finite number of at least 0, or None")
        if self.rows is None:
            return
        if type(self.rows) is not int or self.rows < 1:
            raise ValueError(f"rows: got {self.rows!r}, expected a number of rows of at least 1, or None")
        if not 0 <= self.value <= 1:
            raise ValueError(
                f"rows: got {self.rows}, but the value {self.value!r} is no share of rows. Leave `rows` out."
            )

    def __str__(self) -> str:
        parts = [figure(self.value), "higher is better" if self.higher_is_better else "lower is better"]
        parts += [f"of {self.rows} rows"] if self.rows else []
        parts += [f"{self.drop:g} {less(self.higher_is_better)} is allowed"] if self.drop is not None else []
        return ", ".join(parts)


def value_of(metric: float | Metric) -> float:
    """The number itself."""
    return metric.value if isinstance(metric, Metric) else metric


def higher_is_better(name: str, metric: float | Metric | None) -> bool | None:
    """Which way is better for a metric of this name; None when neither it nor its name determines that."""
    if isinstance(metric, Metric):
        return metric.higher_is_better
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    higher, lower = bool(words & _HIGHER), bool(words & _LOWER)
    return higher if higher != lower else None


def less(higher_is_better: bool) -> str:
    """The word for worse: 'less' where higher is better, else 'more'."""
    return "less" if higher_is_better else "more"


def is_number(value: object) -> bool:
    """Whether it is a finite int or float, of Python's or one that is a subclass."""
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def figure(value: float, *beside: float) -> str:
    """A number in four digits, or in as many digits as distinguish it from those `beside` it that differ."""
    for digits in range(4, 17):
        text = _rounded(value, digits)
        if all(text != _rounded(other, digits) for other in beside if other != value):
            return text
    return repr(value)


def _rounded(value: float, digits: int) -> str:
    # 0.0528, as 0.9889 has four digits; but 0.0000123.
    if 0.001 <= abs(value) < 1:  # noqa: PLR2004
        return f"{value:.{digits}f}".rstrip("0")
    return f"{value:.{digits}g}"


@dataclass(frozen=True)
class Evaluation:
    """Labelled rows, with which a rollout measures the served versions.

    `inputs` are those of `signature`, arrays with the batch first, and `labels` an array with one row for each.
    `metric` is computed of `output`, which may be left out where the signature has one only:

    - `accuracy`, the share of rows whose label is right. An output of scores, float (rows, classes), gives the class
      with the highest score; a float output of one number for each row gives 1 above 0.5; any other is a label itself.
    - `auc`, the area under the ROC curve: labels 0 and 1, an output of scores of class 1, or of two classes.
    - `mae`, the mean absolute error of a numeric output.
    - a function of a module, or its name as 'module:function': a `MetricFunction`. `higher_is_better` goes with it.

    When not given it is `mae` for labels that are floats, else `accuracy`. `drop` is how much worse a new version may
    be, in the metric's unit; when not given, as much as chance explains.
    """

    inputs: Mapping[str, Array]
    labels: Array
    metric: str | MetricFunction | None = None
    output: str | None = None
    signature: str = "serving_default"
    higher_is_better: bool | None = None
    drop: float | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.labels)

    @property
    def metric_name(self) -> str:
        """`accuracy`, `auc`, `mae`, or 'module:function'."""
        if self.metric is None:
            return "mae" if np.asarray(self.labels).dtype.kind == "f" else "accuracy"
        if callable(self.metric):
            return f"{self.metric.__module__}:{getattr(self.metric, '__qualname__', self.metric)}"
        return self.metric

    @property
    def goes_up(self) -> bool:
        """Whether a higher metric is better."""
        return self.metric_name != "mae" if self.higher_is_better is None else self.higher_is_better

    def problems(self) -> Iterator[str]:
        """What is wrong with it by itself, a line each."""
        name = self.metric_name
        if name not in MEASURES and (not FUNCTION.fullmatch(name) or name.startswith("__main__:")):
            yield f"metric: got {name!r}, expected {', '.join(MEASURES)}, or an importable function 'module:function'"
        elif name in MEASURES and self.higher_is_better is not None:
            yield f"higher_is_better: the direction of {name} is fixed. Give it only for a metric of your own."
        elif name not in MEASURES and type(self.higher_is_better) is not bool:
            yield f"higher_is_better: got {self.higher_is_better!r}, the metric {name} needs True or False"
        if self.drop is not None and not (is_number(self.drop) and self.drop >= 0):
            yield f"drop: got {self.drop!r}, expected a finite number of at least 0, or None"
        yield from self._array_problems()

    def _array_problems(self) -> Iterator[str]:
        arrays: dict[str, Any] = {"labels": self.labels, **{f"input {key!r}": one for key, one in self.inputs.items()}}
        for where, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.ndim == 0:
                yield f"{where}: got {type(array).__name__}, expected a numpy array with one row for each label"
                return
            try:
                dtype_of(array)
            except TypeError as error:
                yield f"{where}: {error}"
        rows = {where: len(array) for where, array in arrays.items()}
        if not self.inputs:
            yield "inputs: there are none"
        elif len(set(rows.values())) > 1:
            yield f"the arrays have different numbers of rows: {rows}"
        elif not FEWEST_ROWS <= self.rows <= MOST_ROWS:
            yield f"got {self.rows} rows, expected {FEWEST_ROWS} to {MOST_ROWS}"
        if (size := sum(array.nbytes for array in arrays.values())) > LARGEST_BYTES:
            yield f"got {size} bytes, the limit is {LARGEST_BYTES}"
