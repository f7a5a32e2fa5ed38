"""A SavedModel that another program wrote, exported as it is: its files are copied, and its graph is not changed.

Its live model is a session over the graph in its original folder, as TensorFlow Serving runs it. The outputs of that
session are the golden outputs; the copy must return the same in a fresh process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfserving.export import fresh
from tfserving.export.agreement import agree
from tfserving.export.arithmetic import Arithmetic, arithmetic_of
from tfserving.export.batches import without_batch
from tfserving.export.check import check_files
from tfserving.export.checkpoints import Restored
from tfserving.export.copied import copy_files, files_of, left_out
from tfserving.export.errors import ExportError, ServableError
from tfserving.export.feature_specs import features_of
from tfserving.export.findings import FOR_CLIENTS, Finding
from tfserving.export.given import Given
from tfserving.export.golden import golden_requests
from tfserving.export.graph import read_graph
from tfserving.export.lint import lint_graph, lint_signatures, not_servable
from tfserving.export.live import LiveSignature
from tfserving.export.made import ROWS, made_examples
from tfserving.export.manifest import ServedSignature
from tfserving.export.recorded import recorded
from tfserving.export.rows import rows_in, rows_of
from tfserving.export.savedmodel import read_signatures
from tfserving.export.servable import Servable, Signature
from tfserving.export.source import Making
from tfserving.export.tolerances import Judge
from tfserving.foundation import served_ops
from tfserving.foundation.evaluation import EvaluationError, read_evaluation
from tfserving.foundation.golden import MANIFEST, GoldenRequest
from tfserving.foundation.quality import Evaluation, Metric
from tfserving.foundation.tensors import Array, from_proto

FILE = "use `golden: [FILE.json]` in models.yaml or --golden FILE.json"


class Adopted:
    """The SavedModel in a folder. Reading it needs no TensorFlow."""

    # It has no Python code.
    refused: Collection[str] = ()
    reasons: Mapping[str, str] = {}
    restored = Restored()

    def __init__(self, folder: Path) -> None:
        """Read the SavedModel in `folder`. Raises ExportError when it can't be read and copied.

        The metrics, labelled rows and training data of a version of this toolkit are kept. It must be intact.
        """
        self._folder = folder
        self._files = files_of(folder)
        self._written = read_signatures(folder)
        self._graph = read_graph(folder)
        self._unbatched = without_batch(self._written)
        # The signatures whose golden requests contain random values of their dtypes and shapes.
        self.made: tuple[str, ...] = ()
        self.metrics: Mapping[str, float | Metric] = {}
        self.training_data: Mapping[str, str] = {}
        self.evaluation: Evaluation | None = None
        if (folder / MANIFEST).exists():
            manifest = check_files(folder)
            self.metrics = manifest.metrics
            self.training_data = manifest.provenance.training_data
            # Shapes don't always show it.
            self._unbatched |= {*manifest.unbatched}
            try:
                self.evaluation = read_evaluation(folder)
            except EvaluationError as error:
                raise ExportError(str(error)) from None

    @cached_property
    def signatures(self) -> dict[str, Signature]:
        """The signatures that can be served, each with a function that runs in the session."""
        return {
            name: Signature(
                function=self._function(name),
                inputs=signature.inputs,
                outputs=tuple(signature.outputs),
                method=signature.method,
                defaults=self._defaults(name),
                batched=name not in self._unbatched,
            )
            for name, signature in self._written.items()
            if not any(not_servable(name, self._graph, signature))
        }

    def prepare(self, previous: Mapping[str, ServedSignature] | None, allow: Collection[str]) -> list[Finding]:  # noqa: ARG002
        """Return the findings of lint, before anything is run."""
        return [*lint_signatures(self._written, previous, self._unbatched), *lint_graph(self._graph, self._written)]

    def arithmetic(self) -> Arithmetic:
        """Return the products in its graph."""
        return arithmetic_of(self._graph.nodes(name) for name in self.signatures)

    def requests(self, given: Iterable[Given], making: Making) -> Iterator[GoldenRequest]:
        """Return golden requests made of the rows `given`, else of its own recorded requests, else of random values.

        Raises ServableError for a signature that accepts none of the random values.
        """
        if others := left_out(self._folder):
            making.note(f"not copied, because a SavedModel has no such files: {', '.join(others)}")
        given = [*recorded(self._folder, self.signatures), *given]
        allow = {*making.allow, *FOR_CLIENTS}
        if not self.signatures:
            raise ServableError(f"{self._folder} has no signature that requests can be sent to")
        # A folder that can't be loaded is reported as such, not as a request that failed.
        _ = self._run
        examples: dict[str, Mapping[str, Any]] = {}
        for name in self.signatures:
            mine = [request for request in given if request.signature == name]
            examples[name] = self._examples(name, mine, allow)
            if self.signatures[name].batched and not _rows_are_alone(
                self._live(name, allow), examples[name], making.judge
            ):
                making.note(
                    f"[unbatched] signature {name!r}: the output of a row depends on the other rows, or there is not "
                    "one output for each row. A request is one example, and servers can't batch requests."
                )
                self.signatures[name] = replace(self.signatures[name], batched=False)
                examples[name] = self._examples(name, mine, allow)
            if not mine:
                self.made += (name,)
        if self.made:
            names = ", ".join(map(repr, self.made))
            making.note(f"the golden requests of {names} contain random values. Real requests verify more: {FILE}.")
        servable = Servable(None, self.signatures, examples)
        requests = golden_requests(servable, making.judge, making.batch_sizes, given, making.leave_out, allow)
        yield from _distinct(requests)
        # Before the fresh process has a second copy.
        del self._run

    def write(self, folder: Path) -> dict[str, ServedSignature]:
        """Copy its files to the folder of a version."""
        copy_files(self._folder, self._files, folder)
        return read_signatures(folder)

    def check(self) -> None:
        """Do nothing: a SavedModel can't be unbuilt."""

    def release(self) -> None:
        """Do nothing: the session is released after the last request."""

    def _defaults(self, name: str) -> dict[str, Array]:
        try:
            return {key: from_proto(value) for key, value in self._graph.signatures[name].defaults.items()}
        except ValueError as error:
            raise ServableError(f"signature {name!r}: the default of an input can't be read: {error}") from None

    @cached_property
    def _run(self) -> fresh.Run:
        import tensorflow as tf

        try:
            for library in served_ops.libraries_for(node.op for node in self._graph):
                tf.load_op_library(library)
            run, _ = fresh.LOAD["session"](str(self._folder))
        except Exception as error:
            raise ServableError(f"{self._folder} can't be loaded in a session: {_reason(error)}") from error
        return run

    def _function(self, name: str) -> Callable[..., Mapping[str, Any]]:
        return lambda **inputs: self._run(name, inputs)

    def _live(self, name: str, allow: Collection[str]) -> LiveSignature:
        return LiveSignature(name, self.signatures[name], allow)

    def _examples(self, name: str, given: Sequence[Given], allow: Collection[str]) -> dict[str, Any]:
        """Return example inputs from the requests that are `given` for the signature, else random ones."""
        live = self._live(name, allow)
        for request in given:
            try:
                live.run(request.inputs)
            except ServableError as error:
                raise ServableError(
                    f"{request.where}: signature {name!r} rejects this request: {_reason(error.__cause__ or error)}"
                ) from None
        return examples_of(given, live.signature) or self._made(live)

    def _made(self, live: LiveSignature) -> dict[str, Array]:
        """Return the first random inputs that the signature accepts."""
        signature, infos = live.signature, self._graph.signatures[live.name].inputs
        features = {
            key: parsed
            for key, spec in signature.inputs.items()
            if spec.dtype == "string" and (parsed := features_of(self._graph, infos[key].name)) is not None
        }
        reason = ""
        for examples in made_examples(signature, features):
            try:
                live.run(examples if signature.batched else {key: array[0] for key, array in examples.items()})
            except ServableError as error:
                reason = reason or _reason(error.__cause__ or error)
            else:
                return examples
        raise ServableError(
            f"no golden request can be generated for signature {live.name!r}: it rejects random values of its dtypes "
            f"and shapes ({reason}). Give real requests: {FILE}."
        )


def examples_of(given: Sequence[Given], signature: Signature) -> dict[str, Any]:
    """Return example inputs from requests to `signature`: the rows of all requests shaped like the one with most rows.

    For a signature without a batch, the examples are the requests themselves. {} when there are none.
    """
    found: dict[str, list[Array]] = {}
    for request in sorted(given, key=lambda request: -(rows_in(request.inputs) or 0)):
        inputs = dict(request.inputs)
        for key, value in signature.defaults.items():
            if key not in inputs:
                alone = signature.batched and value.shape[:1] == (1,)
                inputs[key] = np.repeat(value, rows_in(request.inputs) or 1, axis=0) if alone else value
        if not signature.batched or all(
            array.shape[1:] == found[key][0].shape[1:] for key, array in inputs.items() if found
        ):
            for key, array in inputs.items():
                found.setdefault(key, []).append(array)
    return {key: np.concatenate(arrays) for key, arrays in found.items()} if signature.batched else found


def _rows_are_alone(live: LiveSignature, examples: Mapping[str, Array], judge: Judge) -> bool:
    """Return whether each output has a row for each row of the inputs, equal in batches of 1, 2, 7 and 32."""
    if any(spec.shape and spec.shape[0] is not None for spec in live.signature.inputs.values()):
        return True
    large = {name: array[np.arange(ROWS) % len(array)] for name, array in examples.items()}
    together = live.run(large)
    if rows_of(together, slice(None)).keys() != together.outputs.keys():
        return False
    for rows in (slice(0, 1), slice(1, 3), slice(3, 10)):
        try:
            some = live.run({name: array[rows] for name, array in large.items()})
        except ServableError:
            return False
        if not agree(judge, rows_of(together, rows), some.outputs):
            return False
    return True


def _distinct(requests: Iterable[GoldenRequest]) -> Iterator[GoldenRequest]:
    """Return `requests` without duplicates."""
    seen: set[tuple[object, ...]] = set()
    for request in requests:
        if (identity := request.identity) not in seen:
            seen.add(identity)
            yield request


def _reason(error: BaseException) -> str:
    """Return the most useful line of TensorFlow's error. Errors of a session begin with places in the graph."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith(_PLACES) and not line.endswith("root error(s) found.")]
    text = (useful or lines or [type(error).__name__])[0]
    return f"{type(error).__name__}: {text}"


_PLACES = ("Graph execution error", "Detected at node", "Node:", "<stack traces unavailable>", "[[{{node", "File ")
