"""Golden requests: example inputs with the answers that the live model gave, before anything was published.

They lie in the version's folder as TensorFlow Serving's own record (PredictionLog), with request and response; the
warm-up requests are the same without the responses, so a server has run every batch size of them before it says that
the version is available. https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfserving.export.edges import edge_rows
from tfserving.export.errors import LintError, ServableError
from tfserving.export.given import Given
from tfserving.export.servable import Servable, Signature
from tfserving.export.tolerances import Judge, describe
from tfserving.foundation.golden import RECORDS, WARMUP, GoldenRequest, log_of
from tfserving.foundation.tensors import BY_NAME, Array

# TensorFlow Serving looks for this name, and reads no more records than this.
# https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/servables/tensorflow/saved_model_warmup_util.h
MOST_WARMUP = 1000

# These batches are asked for whatever the sizes that are served: a single row, two, and an odd number.
ALWAYS = (1, 2, 7)
LARGEST = 32
# Beside the edge values there is a row that has none.
ORDINARY = ""


def batch_of(request: GoldenRequest) -> int:
    """How many rows `request` has."""
    return len(next(iter(request.inputs.values())))


def golden_requests(
    servable: Servable,
    judge: Judge | None = None,
    batch_sizes: Sequence[int] = (LARGEST,),
    given: Iterable[Given] = (),
    note: Callable[[str], None] = lambda _: None,
    allow: Collection[str] = (),
) -> Iterator[GoldenRequest]:
    """Asks the live model for every signature, for batches of 1, 2, 7 and `batch_sizes` rows, and edge values.

    The requests in `given` follow. `note` is told of edge values that are left out: those that the model refuses, and
    those that change other rows' answers. Raises ServableError for a signature that does not answer exactly its
    outputs, that answers the same request differently the second time, or a row differently in another batch, and for
    an answer to a given request that is not the one given with it.
    """
    judge = judge or Judge()
    for name, signature in servable.signatures.items():
        yield from _Asker(name, signature, servable.examples[name], judge, allow).requests(batch_sizes, note)
    for request in given:
        asker = _Asker(request.signature, servable.signatures[request.signature], {}, judge, allow)
        yield asker.check_given(request)


@dataclass(frozen=True)
class EdgeRequest(GoldenRequest):
    """A golden request with edge values: `edges` says what each row has, ORDINARY for none."""

    edges: tuple[str, ...] = ()

    def disputed(self, answered: Mapping[str, Array], judge: Judge) -> set[int]:
        """The rows that are `answered` otherwise because NaN or infinity is on the way.

        What becomes of those depends on the kernel: on some processors TensorFlow's fused layers make a zero of NaN
        where its relu leaves it. Rows that are answered otherwise for no such reason are not among them.
        """
        rows = set()
        for row, edge in enumerate(self.edges):
            mine, other = (_rows_of(self, slice(row, row + 1), outputs) for outputs in (self.outputs, answered))
            same = all(
                name in other and judge.judge(other[name], array).verdict != "different" for name, array in mine.items()
            )
            excused = edge == "nan" or not (_is_finite(mine) and _is_finite(other))
            if not same and edge != ORDINARY and excused:
                rows.add(row)
        return rows

    def without(self, rows: Collection[int]) -> EdgeRequest:
        """The request, and its answers, without some of its rows."""
        kept = [row for row in range(len(self.edges)) if row not in rows]
        return EdgeRequest(
            self.signature,
            {name: array[kept] for name, array in self.inputs.items()},
            {**self.outputs, **{name: array[kept] for name, array in _rows_of(self, slice(None)).items()}},
            self.method,
            tuple(self.edges[row] for row in kept),
        )

    def told(self, rows: Collection[int]) -> str:
        """What is to be said of rows that are disputed."""
        edges = ", ".join(self.edges[row] for row in sorted(rows))
        return (
            f"signature {self.signature!r}: the graph makes something else of NaN or infinity than the model's Python, "
            f"so no golden request has these edge values: {edges}"
        )


def write_golden(requests: Iterable[GoldenRequest], model: str, version_folder: Path) -> None:
    """Writes golden and warm-up requests of model `model` into `version_folder`."""
    import tensorflow as tf

    (version_folder / RECORDS).parent.mkdir(exist_ok=True)
    with (
        tf.io.TFRecordWriter(str(version_folder / RECORDS)) as golden,
        tf.io.TFRecordWriter(str(version_folder / WARMUP)) as warmup,
    ):
        for number, request in enumerate(requests):
            log = prediction_log(request, model)
            golden.write(log.SerializeToString(deterministic=True))
            if number < MOST_WARMUP:
                getattr(log, f"{request.method}_log").ClearField("response")
                warmup.write(log.SerializeToString(deterministic=True))


def prediction_log(request: GoldenRequest, model: str) -> Any:
    """The PredictionLog of `request` to model `model`, its answer included."""
    try:
        return log_of(request, model)
    except ValueError as error:
        raise ServableError(str(error)) from None


class _Asker:
    """Asks one signature of the live model."""

    def __init__(
        self,
        name: str,
        signature: Signature,
        examples: Mapping[str, Array],
        judge: Judge,
        allow: Collection[str],
    ) -> None:
        self._name = name
        self._allow = allow
        self._signature = signature
        self._examples = examples
        self._judge = judge

    def requests(self, batch_sizes: Sequence[int], note: Callable[[str], None]) -> Iterator[GoldenRequest]:
        sizes = self._fixed_sizes() or sorted({*batch_sizes, *(size for size in ALWAYS if size <= max(batch_sizes))})
        large = self._ask_rows(slice(0, sizes[-1]))
        if len(sizes) == 1:
            self._require_steady(large)
        start = 0
        ordinary = None
        for size in sizes[:-1]:
            # The small ones do not overlap where they needn't, and all lie in the large one.
            start = start if start + size <= sizes[-1] else 0
            rows = slice(start, start + size)
            small = self._ask_rows(rows)
            if not self._same(_rows_of(large, rows), small):
                self._require_steady(small)
            self._require_equal(
                GoldenRequest(self._name, small.inputs, _rows_of(large, rows)),
                small,
                f"the examples' rows {rows.start} to {rows.stop - 1} are answered differently in a batch of "
                f"{size} and in one of {sizes[-1]}",
                "servers put requests together, so a row's answer can't depend on the other rows",
            )
            start += size
            yield small
            if size == 1:
                ordinary = small
        yield large
        if self._signature.defaults:
            few = {name: array[:2] for name, array in self._examples.items() if name not in self._signature.defaults}
            yield self._ask(few)
        if ordinary:
            yield from self._edges(ordinary, note)

    def check_given(self, given: Given) -> GoldenRequest:
        """The given request with the live model's answer, which must be the one that was given, if any was."""
        try:
            request = self._ask(given.inputs)
        except ServableError as error:
            raise ServableError(f"{given.where}: {error}") from None
        if given.outputs is not None:
            wanted = {name: _wire_array(array) for name, array in given.wanted(request.outputs).items()}
            self._require_equal(
                GoldenRequest(self._name, given.inputs, wanted),
                request,
                f"{given.where} is answered otherwise than it says",
                "correct the file, or the model",
            )
        return request

    def _fixed_sizes(self) -> list[int]:
        """The only batch size that the signature takes, when it has a fixed one."""
        sizes = {spec.shape[0] for spec in self._signature.inputs.values() if spec.shape}
        return sorted({size for size in sizes if size is not None})[:1]

    def _edges(self, ordinary: GoldenRequest, note: Callable[[str], None]) -> Iterator[EdgeRequest]:
        """One request with every edge value that the model answers, without another answer to the `ordinary` row."""
        rows = list(edge_rows(self._signature, self._examples))
        try:
            together = self._beside(ordinary, rows)
        except LintError:
            raise
        except ServableError:
            together = None
        if rows and together is None:
            together = self._one_by_one(ordinary, rows, note)
        if together:
            yield together

    def _one_by_one(
        self,
        ordinary: GoldenRequest,
        rows: Iterable[tuple[str, Mapping[str, Array]]],
        note: Callable[[str], None],
    ) -> EdgeRequest | None:
        """A request with those edge values that can be asked; the others are told."""
        refused, changing = [], []
        kept: list[tuple[str, Mapping[str, Array]]] = []
        together = None
        for edge, row in rows:
            try:
                more = self._beside(ordinary, [*kept, (edge, row)])
            except ServableError:
                refused.append(edge)
                continue
            if more is None:
                changing.append(edge)
            else:
                kept.append((edge, row))
                together = more
        for why, edges in (("fails on", refused), ("answers other rows otherwise beside", changing)):
            if edges:
                told = ", ".join(edges)
                note(f"signature {self._name!r} {why} these edge values, so no golden request has them: {told}")
        return together

    def _beside(self, ordinary: GoldenRequest, rows: Sequence[tuple[str, Mapping[str, Array]]]) -> EdgeRequest | None:
        """The edge values `rows` and the `ordinary` row in one request; None when that row is answered otherwise."""
        if not rows:
            return None
        batches = [*(row for _, row in rows), ordinary.inputs]
        asked = self._ask({name: np.concatenate([batch[name] for batch in batches]) for name in ordinary.inputs})
        if not self._same(_rows_of(asked, slice(len(rows), None)), ordinary):
            return None
        edges = (*(edge for edge, _ in rows), ORDINARY)
        return EdgeRequest(asked.signature, asked.inputs, asked.outputs, asked.method, edges)

    def _require_steady(self, request: GoldenRequest) -> None:
        self._require_equal(
            request,
            self._ask(request.inputs),
            "the same request is answered differently the second time",
            "an answer can't depend on random numbers or on what Python code remembers",
        )

    def _same(self, outputs: Mapping[str, Array], answered: GoldenRequest) -> bool:
        return all(
            self._judge.judge(answered.outputs[name], array).verdict != "different" for name, array in outputs.items()
        )

    def _ask_rows(self, rows: slice) -> GoldenRequest:
        # Fewer examples than rows are repeated.
        indices = np.arange(rows.start, rows.stop)
        return self._ask({name: array[indices % len(array)] for name, array in self._examples.items()})

    def _ask(self, inputs: Mapping[str, Array]) -> GoldenRequest:
        inputs = {name: _wire_array(array) for name, array in inputs.items()}
        return GoldenRequest(self._name, inputs, self._answer(inputs), self._signature.method)

    def _require_equal(self, expected: GoldenRequest, answered: GoldenRequest, what: str, why: str) -> None:
        for output, array in expected.outputs.items():
            if output not in answered.outputs:
                raise ServableError(
                    f"signature {self._name!r}: {what}: it has the output {output!r}, answered are "
                    f"{_list(answered.outputs)}; {why}"
                )
            difference = self._judge.judge(answered.outputs[output], array)
            if difference.verdict == "different":
                raise ServableError(
                    f"signature {self._name!r}, output {output!r}: {what}: {describe(difference)}; {why}"
                )

    def _answer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What the live model answers to `inputs`, as numpy arrays."""
        import tensorflow as tf

        name, signature = self._name, self._signature
        where = f"signature {name!r}"
        batch = len(next(iter(inputs.values())))
        tensors = {
            input_name: tf.constant(array, dtype=signature.inputs[input_name].dtype)
            for input_name, array in {**signature.defaults, **inputs}.items()
        }
        try:
            outputs = signature.function(**tensors)
        except Exception as error:
            raise ServableError(
                f"{where}: its function failed on a batch of {batch}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(outputs, Mapping):
            raise ServableError(
                f"{where}: its function returns a {type(outputs).__name__}, a dict with "
                f"{_list(signature.outputs)} is wanted"
            )
        if set(outputs) != set(signature.outputs):
            raise ServableError(
                f"{where}: its function answers the outputs {_list(outputs)}, declared are {_list(signature.outputs)}"
            )
        return {
            output: self._array(f"{where}, output {output!r}", outputs[output], batch) for output in signature.outputs
        }

    def _array(self, where: str, value: Any, batch: int) -> Array:
        array = _output_array(where, value)
        if array.shape[:1] != (batch,) and "output-batch" not in self._allow:
            raise LintError(
                f"[output-batch] {where} has shape {array.shape} for {batch} rows; the batch must come first: answer a "
                "row for each row"
            )
        return array


def _rows_of(request: GoldenRequest, rows: slice, outputs: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """The answers to some rows of `request`, or of other `outputs` to it: of those that have a row for each."""
    batch = batch_of(request)
    outputs = request.outputs if outputs is None else outputs
    return {name: array[rows] for name, array in outputs.items() if array.shape[:1] == (batch,)}


def _is_finite(outputs: Mapping[str, Array]) -> bool:
    # bfloat16 is of numpy's kind V.
    return all(np.isfinite(array).all() for array in outputs.values() if array.dtype.kind in "fcV")


def _output_array(where: str, value: Any) -> Array:
    import tensorflow as tf

    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        raise ServableError(f"{where} is a {type(value).__name__}, only dense tensors can be served") from None
    if tensor.dtype.name not in BY_NAME:
        raise ServableError(f"{where} is of {tensor.dtype.name}, which no client can read; cast it")
    return _wire_array(np.asarray(tensor.numpy()))


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"


def _wire_array(array: Array) -> Array:
    """`array` as it comes back from the wire: strings as an object array of bytes."""
    if array.dtype.kind not in "SUO":
        return array
    as_bytes = np.empty(array.shape, np.object_)
    as_bytes.ravel()[:] = [value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()]
    return as_bytes
