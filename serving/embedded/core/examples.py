"""Classify and regress: signatures that take serialized tf.Examples and return classes with scores, or one value.

https://github.com/tensorflow/serving/blob/r2.20/tensorflow_serving/g3doc/signature_defs.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from google.protobuf import text_format

from tfserving.foundation.tensors import STRING, Array, dtype_of
from tfserving.serving.embedded.core.inference import wrong_shape
from tfserving.serving.embedded.core.loader import Servable
from tfserving.serving.embedded.core.signature import Signature
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.observability.metrics import count_run

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"
MOST_OUTPUTS = 2
_APIS = {CLASSIFY: "Classify", REGRESS: "Regress"}
_MATRIX = 2


@dataclass(frozen=True)
class Classifications:
    """The result of classify, each (batch, classes): labels as bytes, scores as float32. One can be missing."""

    labels: Array | None
    scores: Array | None

    def rows(self) -> list[list[tuple[bytes, float]]]:
        """Returns the label and score of each class, for each example. A missing label is empty, a missing score 0."""
        known = self.labels if self.labels is not None else self.scores
        assert known is not None
        labels = self.labels.tolist() if self.labels is not None else [[b""] * known.shape[1]] * known.shape[0]
        scores = self.scores.tolist() if self.scores is not None else [[0.0] * known.shape[1]] * known.shape[0]
        return [list(zip(*row, strict=True)) for row in zip(labels, scores, strict=True)]


@dataclass(frozen=True)
class Task:
    """A signature and the method to run it with: CLASSIFY or REGRESS."""

    signature: Signature
    method: str
    outputs: tuple[str, ...]

    @property
    def feed(self) -> str:
        """The tensor that takes the serialized examples."""
        return next(iter(self.signature.inputs.values())).tensor


def find_signature(servable: Servable, name: str) -> Signature:
    """Returns the signature `name`. Raises RequestError INVALID_ARGUMENT when it doesn't exist."""
    signature = servable.signatures.get(name)
    if signature is None:
        text = f"No signature was found with the name: {name}"
        raise RequestError(Code.INVALID_ARGUMENT, text, servable.has_signatures())
    return signature


def make_task(servable: Servable, signature: Signature, method: str) -> Task:
    """Checks that `signature` has the inputs and outputs of `method`, whatever method it names itself.

    Raises RequestError INVALID_ARGUMENT when it has not.
    """
    if servable.check_methods and signature.method != method:
        kind = {CLASSIFY: "classification", REGRESS: "regression"}[method]
        raise _invalid(f"Expected {kind} signature method_name to be {method}. Was: {signature.method}")
    servable.check_allowed(signature)
    check = {CLASSIFY: _classify_outputs, REGRESS: _regress_outputs}[method]
    if len(signature.inputs) != 1:
        raise _invalid("Expected one input Tensor.")
    return Task(signature, method, check(signature, servable.definitions.signature_def[signature.name]))


def run(servable: Servable, tasks: Sequence[Task], examples: Sequence[bytes]) -> list[Classifications | Array]:
    """Runs `tasks` on serialized tf.Examples in one session call; returns Classifications or float32 (batch,) for each.

    All tasks get the same examples.

    Raises RequestError: INVALID_ARGUMENT without examples and for outputs of a wrong shape or type, else the runtime's.
    """
    if not examples:
        raise _invalid("Input is empty.")
    serialized = np.empty(len(examples), np.object_)
    serialized[:] = examples
    fetches = [task.signature.outputs[output].tensor for task in tasks for output in task.outputs]
    for task in tasks:
        if servable.check_shapes and not task.signature.fit([serialized]):
            raise wrong_shape(task.signature, [serialized])
    api = _APIS[tasks[0].method] if len(tasks) == 1 else "MultiInference"
    started = monotonic()
    feeds = sorted({task.feed for task in tasks})
    fetched = servable.run_tensors(feeds, [serialized] * len(feeds), fetches)
    count_run(servable.model, api, started)
    results: list[Classifications | Array] = []
    for task in tasks:
        arrays = dict(zip(task.outputs, fetched, strict=False))
        fetched = fetched[len(task.outputs) :]
        made = _classifications if task.method == CLASSIFY else _regressions
        results.append(made(arrays, len(examples)))
    return results


def _classify_outputs(signature: Signature, definition: Any) -> tuple[str, ...]:
    if not 1 <= len(signature.outputs) <= MOST_OUTPUTS:
        raise _invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if INPUTS not in signature.inputs:
        raise _invalid(f"No classification inputs found in SignatureDef: {text_format.MessageToString(definition)}")
    outputs = tuple(name for name in (CLASSES, SCORES) if name in signature.outputs)
    if not outputs:
        raise _invalid(
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}". '
            f"Signature was: {text_format.MessageToString(definition)}"
        )
    return outputs


def _regress_outputs(signature: Signature, definition: Any) -> tuple[str, ...]:
    if len(signature.outputs) != 1:
        raise _invalid("Expected one output Tensor.")
    if INPUTS not in signature.inputs:
        raise _invalid(f"No regression inputs found in SignatureDef: {text_format.MessageToString(definition)}")
    if OUTPUTS not in signature.outputs:
        raise _invalid(f"No regression outputs found in SignatureDef: {text_format.MessageToString(definition)}")
    return (OUTPUTS,)


def _classifications(arrays: Mapping[str, Array], batch: int) -> Classifications:
    for name, array in arrays.items():
        if array.ndim != _MATRIX:
            raise _invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
        wanted = "DT_STRING" if name == CLASSES else "DT_FLOAT"
        if dtype_of(array).wire_name != wanted:
            raise _invalid(f"Expected {name} Tensor of {wanted}. Got: {dtype_of(array).wire_name}")
        if array.shape[0] != batch:
            raise _invalid(f"Expected {name} output batch size of {batch}. Got: {array.shape[0]}")
    labels, scores = arrays.get(CLASSES), arrays.get(SCORES)
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise _invalid(
            f"Tensors class and score should match in dim_size(1). Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    assert labels is None or dtype_of(labels) is STRING
    return Classifications(labels, scores)


def _regressions(arrays: Mapping[str, Array], batch: int) -> Array:
    array = arrays[OUTPUTS]
    if array.ndim not in (1, _MATRIX) or (array.ndim == _MATRIX and array.shape[1] != 1):
        raise _invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(array)}"
        )
    if array.shape[0] != batch:
        raise _invalid(f"Input batch size did not match output batch size: {batch} vs. {array.shape[0]}")
    if dtype_of(array).wire_name != "DT_FLOAT":
        raise _invalid(f"Expected output Tensor of DT_FLOAT.  Got: {dtype_of(array).wire_name}")
    return array.reshape(-1)


def _shape(array: Array) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _invalid(text: str) -> RequestError:
    return RequestError(Code.INVALID_ARGUMENT, text)
