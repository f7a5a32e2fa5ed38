"""Whether a version is worse on labelled rows: both served versions answer them, and a metric is computed of that."""

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
from tfserving.k8s.rollout.labelled_rows import labelled_rows
from tfserving.k8s.rollout.measures import Answers, MeasureError, function_of, noise_of
from tfserving.k8s.rollout.pairs import Asked, Clock, paired
from tfserving.k8s.rollout.quality import Allowed, beyond, sentence, worse_by
from tfserving.k8s.rollout.state import Figure
from tfserving.k8s.rollout.target import GateError, Reached
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.quality import LabelledRows

# Of inputs: in JSON a float takes five times its bytes, and servers take 64 MiB by default.
_MOST_BYTES = 8 << 20
# Of all responses of a version.
_MOST_ANSWERED = 1 << 30
# So much of the old value is never too much worse: of many rows, chance explains less than anybody minds.
LEAST = 0.001


class _UnansweredError(Exception):
    """A version doesn't answer the rows."""


def evaluate(fleet: Fleet, model: str, old: Reached, new: Reached, pause: Callable[[float], None]) -> list[Figure]:
    """Has both served versions answer the labelled rows, and compares the metric; no figure when there are no rows.

    The rows are those of models.yaml, else the new version's, else the old one's. A request has as many of them as the
    largest of the model's `batch_sizes`. The figure fails where the new version doesn't answer, or is worse by more
    than is allowed: what models.yaml says, else what the rows come with, else as much as chance explains on the same
    rows. `pause` is called every second. Raises GateError when rows or metric are of no use, or `rollout.longest` is
    over.
    """
    most, clock = fleet.models[model].batch_sizes[-1], Clock(fleet.rollout.longest, pause)
    with paired(old, new) as pair:
        try:
            found = labelled_rows(fleet, model, (new.version, old.version), pair.new.signatures)
            if found is None:
                return []
            answers = [_try(found, asked, most, clock) for asked in (pair.new, pair.old)]
            said = fleet.models[model].evaluation or LabelledRows()
            return [_compared(found, said, new, old, *answers)]
        except (EvaluationError, MeasureError) as error:
            raise GateError(f"evaluation: {error}") from None


def _compared(
    evaluation: Evaluation, said: LabelledRows, new: Reached, old: Reached, newer: Answers | str, older: Answers | str
) -> Figure:
    """What comes of the answers of both, a text of one that has none."""
    metric, output, upward = evaluation.metric_name, evaluation.output or "", evaluation.goes_up
    function = function_of(metric, output)

    def value_of(answers: Answers | str) -> float | str:
        try:
            if isinstance(answers, str):
                return answers
            if output and output not in answers:
                return f"there is no output {output!r}, but {', '.join(answers)}"
            return function(evaluation.labels, answers)
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
    wrong = beyond(value, said)
    if isinstance(before, str) or isinstance(older, str):
        text = f"{metric} {figure(value)}{on}, version {old.version} has none: {before}"
        return Figure("evaluation", f"{text}; {wrong}" if wrong else text, not wrong, where, numbers)
    worse = evaluation.drop if said.worse is None else said.worse
    if worse is None:
        noise = noise_of(metric, function, output, evaluation.labels, newer, older, upward=upward)
        numbers |= noise.numbers
        least = LEAST * abs(before)
        allowed = Allowed(noise.worse, noise.why) if noise.worse > least else Allowed(least, f"{100 * LEAST:g} % of it")
    else:
        allowed = Allowed(worse)
    numbers |= {"allowed": allowed.worse, "why": allowed.why}
    text = sentence(metric, value, before, old.version, allowed, upward=upward, on=on)
    passed = not wrong and allowed.admits(worse_by(value, before, upward=upward))
    return Figure("evaluation", f"{text}; {wrong}" if wrong else text, passed, where, numbers)


def _try(evaluation: Evaluation, asked: Asked, most: int, clock: Clock) -> Answers | str:
    """What a version answers to all rows, by output, or why it doesn't."""
    try:
        return _answers(evaluation, asked, most, clock)
    except _UnansweredError as error:
        return str(error)


def _answers(evaluation: Evaluation, asked: Asked, most: int, clock: Clock) -> Answers:
    """What a version answers to all rows, by output, in requests of `most` rows. Raises _UnansweredError."""
    method = asked.method(evaluation.signature) if evaluation.signature in asked.signatures else "predict"
    request = GoldenRequest(evaluation.signature, evaluation.inputs, {}, method)
    fixed = _fixed_rows(asked.signatures.get(evaluation.signature))
    size = fixed or _rows_at_a_time(evaluation, most)
    parts: list[Mapping[str, Array]] = []
    total = 0
    for start in range(0, evaluation.rows, size):
        # The last rows, and some of the first ones, where the number of rows is fixed.
        rows = np.arange(start, start + size) if fixed else np.arange(start, min(start + size, evaluation.rows))
        part = {name: array[rows % evaluation.rows] for name, array in evaluation.inputs.items()}
        sent = replace(request, inputs=part)
        if reason := asked.misfit(sent):
            raise _UnansweredError(reason)
        if clock.is_over():
            raise EvaluationError(
                f"{start} of {evaluation.rows} rows were answered in time; use fewer, or raise `rollout.longest`"
            )
        answer = asked.send(sent)
        if answer.failure:
            raise _UnansweredError(answer.failure)
        total += sum(array.nbytes for array in answer.outputs.values())
        if total > _MOST_ANSWERED:
            raise _UnansweredError(f"its responses to {start + size} rows have more than {_MOST_ANSWERED} bytes")
        wrong = [name for name, array in answer.outputs.items() if array.ndim == 0 or len(array) != len(rows)]
        if wrong:
            raise _UnansweredError(f"output {wrong[0]!r} doesn't have a row for each of the request's {len(rows)}")
        parts.append({name: array[: evaluation.rows - start] for name, array in answer.outputs.items()})
    try:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    except (KeyError, ValueError):
        raise _UnansweredError("its outputs have other names or shapes in other requests") from None


def _fixed_rows(signature: Signature | None) -> int | None:
    """How many rows each request has to have; None when any number will do."""
    shapes = [] if signature is None else [info.shape for info in signature.inputs.values()]
    return next((shape[0] for shape in shapes if shape and shape[0]), None)


def _rows_at_a_time(evaluation: Evaluation, most: int) -> int:
    row = sum(array.nbytes for array in evaluation.inputs.values()) / evaluation.rows
    return max(1, min(most, int(_MOST_BYTES / max(row, 1))))
