"""What a builder returns: a model, the signatures it is served with, and example inputs."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from tfserving.export.errors import ServableError
from tfserving.foundation.quality import MEASURES, Evaluation, Metric, is_number
from tfserving.foundation.tensors import BY_NAME, Array, dtype_of

# What a builder needs.
__all__ = ["Evaluation", "Metric", "Servable", "Signature", "TensorSpec"]
# Names that Keras and TensorFlow make up when nobody chose one: a client can't know what they mean.
MADE_UP = re.compile(r"(args|inputs|output|keras_tensor)_?\d+")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
Method = Literal["predict", "classify", "regress"]
# https://github.com/tensorflow/serving/blob/r2.20/tensorflow_serving/g3doc/signature_defs.md
EXAMPLES = "inputs"
METHOD_OUTPUTS: dict[Method, tuple[set[str], ...]] = {
    "classify": ({"classes", "scores"}, {"scores"}, {"classes"}),
    "regress": ({"outputs"},),
}
# Golden requests of 1, 2 and 7 rows that don't overlap need this many.
FEWEST_EXAMPLES = 10
# Of a signature without a batch: one could be answered right by chance.
FEWEST_UNBATCHED = 3


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: TensorFlow's name of its dtype, and its shape.

    None is a dimension of any size; a `shape` that is None altogether, a tensor of any rank.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        return f"{self.dtype} {'of any shape' if self.shape is None else self.shape}"

    @classmethod
    def of(cls, array: Array) -> TensorSpec:
        """The spec that just `array` fits. Raises TypeError for an element type that tensors don't have."""
        return cls(dtype_of(array).name, array.shape)

    def admits(self, shape: tuple[int | None, ...]) -> bool:
        """Whether an array of `shape` fits."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            wanted in (None, size) for wanted, size in zip(self.shape, shape, strict=True)
        )

    def is_a(self, other: TensorSpec) -> bool:
        """Whether every array that fits this spec fits `other`, too: it is the same, or more exact."""
        if self.dtype != other.dtype or self.shape is None:
            return self == other
        return other.shape is None or (
            len(self.shape) == len(other.shape)
            and all(wanted in (None, size) for wanted, size in zip(other.shape, self.shape, strict=True))
        )


@dataclass(frozen=True)
class Signature:
    """One named function of a servable.

    `function` takes the inputs as keyword arguments, tensors whose first dimension is the batch, and returns a dict
    with exactly the `outputs`, tensors with the same batch, or another structure whose tensors get these names
    (`tfserving.export.outputs.named_outputs`). It may be a plain function, a `tf.function`, or a Keras model, which is
    called with its only input, or with a dict of its inputs by name.

    A request may leave out the inputs that `defaults` has values for; a server then feeds that value as it is, so the
    function must take it beside any batch (by broadcasting a batch of 1, say).

    With `batched` False its inputs have no batch in common: single values such as a threshold, the parts of a ragged
    tensor, one image of any size. A server then can't put requests together, so many small ones cost as many runs.

    To be asked to classify or to regress, a signature has one input `inputs`, serialized tf.Examples (string, (None,)).
    To classify it answers `classes` (string), `scores` (float32), or both, of shape (batch, classes); to regress
    `outputs`, float32 of shape (batch,) or (batch, 1).
    """

    function: Callable[..., Any]
    inputs: Mapping[str, TensorSpec]
    outputs: tuple[str, ...]
    method: Method = "predict"
    defaults: Mapping[str, Array] = field(default_factory=dict)
    batched: bool = True

    def call(self, inputs: Mapping[str, Any]) -> Any:
        """What `function` returns for tensors by name; whatever it raises."""
        import keras

        if isinstance(self.function, keras.layers.Layer):
            return self.function(next(iter(inputs.values())) if len(inputs) == 1 else dict(inputs))
        return self.function(**inputs)


@dataclass(frozen=True)
class Servable:
    """A model that can be exported.

    `module` is the Keras model or `tf.Module` that holds the variables, or a list or dict of such; `examples` has real
    inputs for every signature, arrays with the batch first: at least 10 rows, better 32 or more. Golden requests are
    cut from them. Of a signature with `batched` False they are sequences, an array for each request: at least 3, the
    first 32 are used.
    `metrics` go into the manifest: a `Metric` says which way is better, which a rollout otherwise takes from its name.
    `evaluation` has labelled rows that the version carries, for a rollout to measure the served versions with.
    `checkpoint` is what training makes its `tf.train.Checkpoint` of, by
    name, when that isn't `{"model": module}`: what of it is exported from a checkpoint.
    """

    module: Any
    signatures: Mapping[str, Signature]
    examples: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, float | Metric] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    checkpoint: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raises ServableError with every declaration that can't be served, one a line."""
        if problems := list(self._problems()):
            raise ServableError("\n".join(problems))

    def _problems(self) -> Iterator[str]:
        if not self.signatures:
            yield "the servable has no signature; give it at least 'serving_default'"
        for name in self.examples.keys() - self.signatures.keys():
            yield f"there are examples for {name!r}, which is no signature; {_have(self.signatures)}"
        for name, value in self.metrics.items():
            if not isinstance(value, Metric) and not is_number(value):
                yield f"metrics[{name!r}] is {value!r}, a finite number is needed (float(...) makes one of numpy's)"
        if self.evaluation is not None:
            yield from _evaluation_problems(self.evaluation, self.signatures)
        for name, signature in self.signatures.items():
            where = f"signature {name!r}"
            if not NAME.fullmatch(name):
                yield f"{where}: its name needs letters, digits and '_' only, a letter first"
            if signature.method not in get_args(Method):
                yield f"{where}: method {signature.method!r} can't be exported; {' or '.join(get_args(Method))} can"
            yield from _declaration_problems(where, signature)
            yield from _default_problems(where, signature)
            yield from _method_problems(where, signature)
            check = _example_problems if signature.batched else _unbatched_problems
            yield from check(where, signature, self.examples.get(name, {}))


def _evaluation_problems(evaluation: Evaluation, signatures: Mapping[str, Signature]) -> Iterator[str]:
    """What is wrong with labelled rows for a model with these signatures."""
    yield from (f"evaluation: {problem}" for problem in evaluation.problems())
    signature = signatures.get(evaluation.signature)
    if signature is None:
        yield f"evaluation: there is no signature {evaluation.signature!r}; {_have(signatures)}"
        return
    if not signature.batched:
        yield (
            f"evaluation: signature {evaluation.signature!r} takes one example a request (batched=False), and labelled "
            "rows are sent in batches; measure in the builder and give `metrics`, or name a signature with a batch"
        )
        return
    if missing := signature.inputs.keys() - evaluation.inputs.keys() - signature.defaults.keys():
        yield f"evaluation: it has no input {_names(dict.fromkeys(sorted(missing)))}"
    for name, array in evaluation.inputs.items():
        if name not in signature.inputs:
            yield f"evaluation: there is no input {name!r}; the inputs are {_names(signature.inputs)}"
        elif isinstance(array, np.ndarray):
            yield from _input_problems(f"evaluation, input {name!r}", array, signature.inputs[name])
    if evaluation.output is None and evaluation.metric_name in MEASURES and len(signature.outputs) > 1:
        yield f"evaluation: output says which one is measured: {_names(dict.fromkeys(signature.outputs))}"
    elif evaluation.output not in (None, *signature.outputs):
        have = _names(dict.fromkeys(signature.outputs))
        yield f"evaluation: there is no output {evaluation.output!r}; the outputs are {have}"


def _input_problems(where: str, array: Array, spec: TensorSpec) -> Iterator[str]:
    """What is wrong with rows of an input, however many there are."""
    wanted = TensorSpec(spec.dtype, spec.shape and (None, *spec.shape[1:]))
    try:
        found = TensorSpec.of(array)
    except TypeError:
        return
    if found.dtype != wanted.dtype or not wanted.admits(array.shape):
        yield f"{where}: it is {found}, the signature wants {wanted}"


def _declaration_problems(where: str, signature: Signature) -> Iterator[str]:
    """What is wrong with the inputs and outputs that `signature` declares."""
    if len(set(signature.outputs)) < len(signature.outputs):
        yield f"{where}: an output is named twice in {signature.outputs}"
    for kind, names in (("input", signature.inputs), ("output", signature.outputs)):
        if not names:
            yield f"{where} has no {kind}s; name them"
        for name in names:
            if not NAME.fullmatch(name) or keyword.iskeyword(name):
                yield f"{where}, {kind} {name!r}: its name needs letters, digits and '_' only, a letter first"
    for name, spec in signature.inputs.items():
        if spec.dtype not in BY_NAME:
            yield f"{where}, input {name!r}: dtype {spec.dtype!r} can't be served; one of {', '.join(BY_NAME)} can"
        if spec.shape == () and signature.batched:
            yield (
                f"{where}, input {name!r} is a single value; its first dimension, None, is to be the batch, or the "
                "signature is declared with batched=False and takes one example a request"
            )


def _default_problems(where: str, signature: Signature) -> Iterator[str]:
    """What is wrong with the values of inputs that a request may leave out."""
    for name, value in signature.defaults.items():
        here = f"{where}: the default of input {name!r}"
        if name not in signature.inputs:
            yield f"{here}: there is no such input; the inputs are {_names(signature.inputs)}"
        elif not hasattr(value, "dtype") or TensorSpec.of(value).dtype != signature.inputs[name].dtype:
            yield f"{here} is {value!r:.40}, a numpy array of {signature.inputs[name]} is needed"
        elif len(signature.defaults) == len(signature.inputs):
            yield f"{here}: one input at least must be sent{', its rows are the batch' if signature.batched else ''}"
        elif not signature.inputs[name].admits(value.shape):
            yield f"{here} is {TensorSpec.of(value)}, the signature wants {signature.inputs[name]}"


def _method_problems(where: str, signature: Signature) -> Iterator[str]:
    """What is wrong with the inputs and outputs of a signature that is asked to classify or to regress."""
    allowed = METHOD_OUTPUTS.get(signature.method)
    if allowed is None:
        return
    if not signature.batched:
        yield f"{where}: batched=False is for predict; to {signature.method} it is sent tf.Examples, which are a batch"
    wanted = TensorSpec("string", (None,))
    if dict(signature.inputs) != {EXAMPLES: wanted}:
        has = ", ".join(f"{name!r}: {spec}" for name, spec in signature.inputs.items()) or "none"
        yield f"{where}: to {signature.method} its one input is {EXAMPLES!r}: {wanted}, tf.Examples; it has {has}"
    if set(signature.outputs) not in allowed:
        wants = " or ".join(" and ".join(map(repr, sorted(names))) for names in allowed)
        has = _names(dict.fromkeys(signature.outputs))
        yield f"{where}: to {signature.method} its outputs are {wants}; it has {has}"


def _example_problems(where: str, signature: Signature, examples: Mapping[str, Array]) -> Iterator[str]:
    """What is wrong with the `examples` of `signature`."""
    if not examples:
        yield f"{where} has no examples; real rows of {_names(signature.inputs)} are needed, at least {FEWEST_EXAMPLES}"
        return
    if examples.keys() != signature.inputs.keys():
        yield f"{where}: its examples are of {_names(examples)}, its inputs are {_names(signature.inputs)}"
        return
    for name, spec in signature.inputs.items():
        array, here = examples[name], f"{where}: the examples of input {name!r}"
        try:
            dtype = dtype_of(array).name
        except (TypeError, AttributeError):
            yield (
                f"{here} are {type(array).__name__}, a numpy array of {spec} is needed (one array for each request "
                "where the signature is declared with batched=False)"
            )
            continue
        # However many examples there are, a batch is made of them.
        wanted = TensorSpec(spec.dtype, spec.shape and (None, *spec.shape[1:]))
        if dtype != wanted.dtype or not wanted.admits(array.shape):
            yield f"{here} are {TensorSpec(dtype, array.shape)}, the signature wants {spec}"
    rows = {name: len(array) if array.ndim else 0 for name, array in examples.items() if hasattr(array, "ndim")}
    if len(set(rows.values())) > 1:
        yield (
            f"{where}: its inputs have different numbers of example rows: {rows}; where the inputs have no batch in "
            "common, declare it with batched=False"
        )
    elif rows and min(rows.values()) < FEWEST_EXAMPLES:
        yield f"{where} has {min(rows.values())} rows of examples, at least {FEWEST_EXAMPLES} are needed"


def _unbatched_problems(where: str, signature: Signature, examples: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """What is wrong with the `examples` of a `signature` without a batch."""
    needed = f"at least {FEWEST_UNBATCHED} of each, one for each request"
    if examples.keys() != signature.inputs.keys():
        have, want = _names(examples), _names(signature.inputs)
        yield f"{where}: its examples are of {have}, its inputs are {want}; give arrays, {needed}"
        return
    for name, value in examples.items():
        if (
            isinstance(value, (bytes, str))
            or not isinstance(value, (Sequence, np.ndarray))
            or (isinstance(value, np.ndarray) and not value.ndim)
        ):
            yield (
                f"{where}: the examples of input {name!r} are one {type(value).__name__}; a list of arrays of "
                f"{signature.inputs[name]} is needed, {needed}"
            )
            return
    lengths = {name: len(values) for name, values in examples.items()}
    if len(set(lengths.values())) > 1:
        yield f"{where}: its inputs have different numbers of examples: {lengths}; each needs one for each request"
    elif min(lengths.values()) < FEWEST_UNBATCHED:
        yield f"{where} has {min(lengths.values())} examples; {needed} are needed"
    for name, values in examples.items():
        yield from _misfits(f"input {name!r}", where, signature.inputs[name], values)


def _misfits(what: str, where: str, wanted: TensorSpec, values: Sequence[Any]) -> Iterator[str]:
    """The first of the examples `values` that is not `wanted`."""
    for number, value in enumerate(values):
        try:
            array = one_array(value)
            found = TensorSpec.of(array)
        except (TypeError, ValueError):
            yield f"{where}: example {number} of {what} is a {type(value).__name__}, an array of {wanted} is needed"
            return
        if found.dtype != wanted.dtype or not wanted.admits(array.shape):
            yield f"{where}: example {number} of {what} is {found}, the signature wants {wanted}"
            return


def one_array(value: Any) -> Array:
    """An example of one input as an array. A text becomes an object: numpy's own type loses NULs at its end."""
    return np.array(value, np.object_) if isinstance(value, (bytes, str)) else np.asarray(value)


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _have(names: Mapping[str, object]) -> str:
    return f"the signatures are {_names(names)}"
