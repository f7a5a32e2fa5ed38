"""A SavedModel that something else wrote, exported as it is: its files are copied, nothing in its graph is changed.

Its live model is a session over the graph in the folder where it was found, as TensorFlow Serving runs it. The
outputs of that session are golden; the copy must return the same in a fresh process.
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
from tfserving.export.source import Asking
from tfserving.export.tolerances import Judge
from tfserving.foundation import served_ops
from tfserving.foundation.evaluation import EvaluationError, read_evaluation
from tfserving.foundation.golden import MANIFEST, GoldenRequest
from tfserving.foundation.quality import Evaluation, Metric
from tfserving.foundation.tensors import Array, from_proto

FILE = "`golden: [FILE.json]` in models.yaml, or --golden FILE.json"


class Adopted:
    """The SavedModel in a folder. Reading it needs no TensorFlow."""

    # No package has its code, and no Python of anybody's ran.
    refused: Collection[str] = ()
    reasons: Mapping[str, str] = {}
    restored = Restored()

    def __init__(self, folder: Path) -> None:
        """Raises ExportError when there is no SavedModel in `folder` that can be read and copied.

        The metrics and labelled rows of a version of this toolkit are kept; such a version must be whole.
        """
        self._folder = folder
        self._files = files_of(folder)
        self._written = read_signatures(folder)
        self._graph = read_graph(folder)
        self._unbatched = without_batch(self._written)
        # The signatures whose golden requests are made of nothing but dtypes and shapes.
        self.made: tuple[str, ...] = ()
        self.metrics: Mapping[str, float | Metric] = {}
        self.evaluation: Evaluation | None = None
        if (folder / MANIFEST).exists():
            manifest = check_files(folder)
            self.metrics = manifest.metrics
            # Shapes don't always tell.
            self._unbatched |= {*manifest.unbatched}
            try:
                self.evaluation = read_evaluation(folder)
            except EvaluationError as error:
                raise ExportError(str(error)) from None

    @cached_property
    def signatures(self) -> dict[str, Signature]:
        """Those of its signatures that can be served, each with a function that runs in the session."""
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
        """What is wrong with it, found before any of it is run."""
        return [*lint_signatures(self._written, previous, self._unbatched), *lint_graph(self._graph, self._written)]

    def requests(self, given: Iterable[Given], asking: Asking) -> Iterator[GoldenRequest]:
        """Golden requests, of the rows of those that are `given` or that it brings along, else of made ones.

        Raises ServableError for a signature that takes none of those that were made.
        """
        if others := left_out(self._folder):
            asking.say(f"not part of a SavedModel, so not copied: {', '.join(others)}")
        given = [*recorded(self._folder, self.signatures), *given]
        allow = {*asking.allow, *FOR_CLIENTS}
        if not self.signatures:
            raise ServableError(f"{self._folder} has no signature that requests can be sent to")
        # A folder that can't be loaded is told as such, not as a request that failed.
        _ = self._ask
        examples: dict[str, Mapping[str, Any]] = {}
        for name in self.signatures:
            mine = [request for request in given if request.signature == name]
            examples[name] = self._examples(name, mine, allow)
            if self.signatures[name].batched and not _rows_are_alone(
                self._live(name, allow), examples[name], asking.judge
            ):
                asking.say(
                    f"[unbatched] signature {name!r}: a row gets another result beside other rows, or none of its "
                    "own, so a request is one example, and no server may put several together"
                )
                self.signatures[name] = replace(self.signatures[name], batched=False)
                examples[name] = self._examples(name, mine, allow)
            if not mine:
                self.made += (name,)
        if self.made:
            names = ", ".join(map(repr, self.made))
            asking.say(
                f"golden requests of {names} are random values of the dtypes and shapes; real ones prove more: {FILE}"
            )
        servable = Servable(None, self.signatures, examples)
        yield from _distinct(golden_requests(servable, asking.judge, asking.batch_sizes, given, asking.note, allow))
        # Before the fresh process has a second copy.
        del self._ask

    def write(self, folder: Path) -> dict[str, ServedSignature]:
        """Copies its files to the folder of a version."""
        copy_files(self._folder, self._files, folder)
        return read_signatures(folder)

    def check(self) -> None:
        """There is nothing that could not have been built."""

    def release(self) -> None:
        """The session is forgotten when the last request was answered."""

    def _defaults(self, name: str) -> dict[str, Array]:
        try:
            return {key: from_proto(value) for key, value in self._graph.signatures[name].defaults.items()}
        except ValueError as error:
            raise ServableError(f"signature {name!r}: the default of an input can't be read: {error}") from None

    @cached_property
    def _ask(self) -> fresh.Ask:
        import tensorflow as tf

        try:
            for library in served_ops.libraries_for(node.op for node in self._graph):
                tf.load_op_library(library)
            ask, _ = fresh.LOAD["session"](str(self._folder))
        except Exception as error:
            raise ServableError(f"{self._folder} can't be loaded, as a server does: {_reason(error)}") from error
        return ask

    def _function(self, name: str) -> Callable[..., Mapping[str, Any]]:
        return lambda **inputs: self._ask(name, inputs)

    def _live(self, name: str, allow: Collection[str]) -> LiveSignature:
        return LiveSignature(name, self.signatures[name], allow)

    def _examples(self, name: str, given: Sequence[Given], allow: Collection[str]) -> dict[str, Any]:
        """Example inputs from the requests that are `given` to the signature, or made ones when there are none."""
        live = self._live(name, allow)
        for request in given:
            try:
                live.ask(request.inputs)
            except ServableError as error:
                raise ServableError(
                    f"{request.where}: signature {name!r} refuses it: {_reason(error.__cause__ or error)}"
                ) from None
        return examples_of(given, live.signature) or self._made(live)

    def _made(self, live: LiveSignature) -> dict[str, Array]:
        """The first inputs that were made of the signature which it accepts."""
        signature, infos = live.signature, self._graph.signatures[live.name].inputs
        features = {
            key: parsed
            for key, spec in signature.inputs.items()
            if spec.dtype == "string" and (parsed := features_of(self._graph, infos[key].name)) is not None
        }
        reason = ""
        for examples in made_examples(signature, features):
            try:
                live.ask(examples if signature.batched else {key: array[0] for key, array in examples.items()})
            except ServableError as error:
                reason = reason or _reason(error.__cause__ or error)
            else:
                return examples
        raise ServableError(
            f"no golden request could be made for signature {live.name!r}: random values of its dtypes and shapes were "
            f"refused ({reason}); give real ones: {FILE}"
        )


def examples_of(given: Sequence[Given], signature: Signature) -> dict[str, Any]:
    """Example inputs from requests to `signature`: the rows of those that have the shapes of the one with most rows.

    Of a signature without a batch all of them, one by one. {} when there are none.
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
    """Whether each output has a row for each row of the inputs, the same in a batch of 1, 2, 7 and 32."""
    if any(spec.shape and spec.shape[0] is not None for spec in live.signature.inputs.values()):
        return True
    large = {name: array[np.arange(ROWS) % len(array)] for name, array in examples.items()}
    together = live.ask(large)
    if rows_of(together, slice(None)).keys() != together.outputs.keys():
        return False
    for rows in (slice(0, 1), slice(1, 3), slice(3, 10)):
        try:
            some = live.ask({name: array[rows] for name, array in large.items()})
        except ServableError:
            return False
        if not agree(judge, rows_of(together, rows), some.outputs):
            return False
    return True


def _distinct(requests: Iterable[GoldenRequest]) -> Iterator[GoldenRequest]:
    """The `requests` without those that were there before."""
    seen: set[tuple[object, ...]] = set()
    for request in requests:
        if (identity := request.identity) not in seen:
            seen.add(identity)
            yield request


def _reason(error: BaseException) -> str:
    """The line of TensorFlow's error that says most: those of a session begin with where in the graph it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    says = [line for line in lines if not line.startswith(_PLACES) and not line.endswith("root error(s) found.")]
    text = (says or lines or [type(error).__name__])[0]
    return f"{type(error).__name__}: {text}"


_PLACES = ("Graph execution error", "Detected at node", "Node:", "<stack traces unavailable>", "[[{{node", "File ")
