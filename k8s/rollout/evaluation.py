"""The gate `evaluation`: send labelled rows to both served versions, and compare a metric of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tfserving.clients.results import Signature
from tfserving.foundation.evaluation import EvaluationError
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.quality import Evaluation, figure
from tfserving.foundation.tensors import Array
from tfserving.foundation.user_modules import in_project
from tfserving.k8s.rollout.labelled_rows import labelled_rows
from tfserving.k8s.rollout.measures import MeasureError, Outputs, function_of, noise_of
from tfserving.k8s.rollout.pairs import Clock, ServedVersion, paired
from tfserving.k8s.rollout.quality import Allowed, beyond, sentence, worse_by
from tfserving.k8s.rollout.state import Figure
from tfserving.k8s.rollout.target import GateError, Reached
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.quality import LabelledRows

# Limit for the inputs of a request: in JSON a float needs five times its bytes, and servers accept 64 MiB by default.
_MOST_BYTES = 8 << 20
# Limit for all responses of a version.
_MOST_RECEIVED = 1 << 30
# This share of the old value is always allowed: with many rows, chance explains less than what matters.
LEAST = 0.001


class _FailedError(Exception):
    """A version returns no outputs for the rows."""


def evaluate(fleet: Fleet, model: str, old: Reached, new: Reached, pause: Callable[[float], None]) -> list[Figure]:
    """Send the labelled rows to both served versions, and compare the metric; return [] without rows.

    The rows are those of models.yaml, else of the new version, else of the old one. A request has as many rows as the
    largest of the model's `batch_sizes`. The figure fails when the new version fails, or is worse by more than the
    limit. The limit is that of models.yaml, else that of the rows, else what chance explains on the same rows. `pause`
    is called every second. Raises GateError for invalid rows or metrics, and when `rollout.longest` is over.
    """
    most, clock = fleet.models[model].batch_sizes[-1], Clock(fleet.rollout.longest, pause)
    # Functions of the user's are found beside models.yaml.
    folder = fleet.file.parent
    with paired(old, new) as pair:
        try:
            with in_project(folder):
                found = labelled_rows(fleet, model, (new.version, old.version), pair.new.signatures)
            if found is None:
                return []
            outputs = [_try(found, served, most, clock) for served in (pair.new, pair.old)]
            limits = fleet.models[model].evaluation or LabelledRows()
            with in_project(folder):
                return [_compared(found, limits, new, old, *outputs)]
        except (EvaluationError, MeasureError) as error:
            raise GateError(f"evaluation: {error}") from None


def _compared(
    evaluation: Evaluation, limits: LabelledRows, new: Reached, old: Reached, newer: Outputs | str, older: Outputs | str
) -> Figure:
    """Return the figure for the outputs of both; a text is the reason why a version has none."""
    metric, output, upward = evaluation.metric_name, evaluation.output or "", evaluation.goes_up
    function = function_of(metric, output)

    def value_of(outputs: Outputs | str) -> float | str:
        try:
            if isinstance(outputs, str):
                return outputs
            if output and output not in outputs:
                return f"it has no output {output!r}, but {', '.join(outputs)}"
            return function(evaluation.labels, outputs)
        except MeasureError as error:
            return str(error)

    value, before = value_of(newer), value_of(older)
    numbers: dict[str, Any] = {
        "metric": metric,
        "output": output,
        "rows": evaluation.rows,
        "higher_is_better": upward,
        "new": None if isinstance(value, str) else value,
        "old": None if isinstance(before, str) else before,
    }
    where, on = new.instance.name, f" on {evaluation.rows} labelled rows"
    if isinstance(value, str) or isinstance(newer, str):
        return Figure("evaluation", f"{metric}{on}: version {new.version} has none: {value}", False, where, numbers)
    wrong = beyond(value, limits)
    if isinstance(before, str) or isinstance(older, str):
        text = f"{metric} {figure(value)}{on}, version {old.version} has none: {before}"
        return Figure("evaluation", f"{text}; {wrong}" if wrong else text, not wrong, where, numbers)
    worse = evaluation.drop if limits.worse is None else limits.worse
    if worse is None:
        noise = noise_of(metric, function, output, evaluation.labels, newer, older, upward=upward)
        numbers |= noise.numbers
        least = LEAST * abs(before)
        share = f"{100 * LEAST:g} % of the old value"
        allowed = Allowed(noise.worse, noise.why) if noise.worse > least else Allowed(least, share)
    else:
        allowed = Allowed(worse)
    numbers |= {"allowed": allowed.worse, "why": allowed.why}
    text = sentence(metric, value, before, old.version, allowed, upward=upward, on=on)
    passed = not wrong and allowed.admits(worse_by(value, before, upward=upward))
    return Figure("evaluation", f"{text}; {wrong}" if wrong else text, passed, where, numbers)


def _try(evaluation: Evaluation, served: ServedVersion, most: int, clock: Clock) -> Outputs | str:
    """Return the outputs of a version for all rows, or why it fails."""
    try:
        return _outputs(evaluation, served, most, clock)
    except _FailedError as error:
        return str(error)


def _outputs(evaluation: Evaluation, served: ServedVersion, most: int, clock: Clock) -> Outputs:
    """Return the outputs of a version for all rows, sent in requests of `most` rows. Raises _FailedError."""
    method = served.method(evaluation.signature) if evaluation.signature in served.signatures else "predict"
    request = GoldenRequest(evaluation.signature, evaluation.inputs, {}, method)
    fixed = _fixed_rows(served.signatures.get(evaluation.signature))
    size = fixed or _rows_at_a_time(evaluation, most)
    parts: list[Mapping[str, Array]] = []
    total = 0
    for start in range(0, evaluation.rows, size):
        # With a fixed number of rows, the last request is filled up with the first rows.
        rows = np.arange(start, start + size) if fixed else np.arange(start, min(start + size, evaluation.rows))
        part = {name: array[rows % evaluation.rows] for name, array in evaluation.inputs.items()}
        sent = replace(request, inputs=part)
        if reason := served.misfit(sent):
            raise _FailedError(reason)
        if clock.is_over():
            raise EvaluationError(
                f"only {start} of {evaluation.rows} rows were sent in {clock.seconds:g} s. Use fewer rows, or raise "
                "`rollout.longest`."
            )
        response = served.send(sent)
        if response.failure:
            raise _FailedError(response.failure)
        total += sum(array.nbytes for array in response.outputs.values())
        if total > _MOST_RECEIVED:
            raise _FailedError(f"its responses to {start + size} rows exceed {_MOST_RECEIVED} bytes")
        for name, array in response.outputs.items():
            if array.ndim == 0 or len(array) != len(rows):
                raise _FailedError(f"output {name!r}: got shape {array.shape}, expected {len(rows)} rows")
        parts.append({name: array[: evaluation.rows - start] for name, array in response.outputs.items()})
    try:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    except (KeyError, ValueError):
        raise _FailedError("names or shapes of its outputs differ between requests") from None


def _fixed_rows(signature: Signature | None) -> int | None:
    """Return the number of rows that each request must have; None for any number."""
    shapes = [] if signature is None else [info.shape for info in signature.inputs.values()]
    return next((shape[0] for shape in shapes if shape and shape[0]), None)


def _rows_at_a_time(evaluation: Evaluation, most: int) -> int:
    row = sum(array.nbytes for array in evaluation.inputs.values()) / evaluation.rows
    return max(1, min(most, int(_MOST_BYTES / max(row, 1))))
