"""The return value of a builder: a model, the signatures that it is served with, and example inputs."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from tfserving.export import training_data
from tfserving.export.errors import ServableError
from tfserving.foundation.quality import MEASURES, Evaluation, Metric, is_number
from tfserving.foundation.tensors import BY_NAME, Array, dtype_of

# The names that a builder needs.
__all__ = ["Evaluation", "Metric", "Servable", "Signature", "TensorSpec"]
# Names that Keras and TensorFlow generate when none is given. They tell clients nothing.
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
# For a signature without a batch. With one example, the outputs could be right by chance.
FEWEST_UNBATCHED = 3


@dataclass(frozen=True)
class TensorSpec:
    """The dtype and shape of an input or output.

    `dtype` is TensorFlow's name of it. None is a dimension of any size. A `shape` of None is a tensor of any rank.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        return f"{self.dtype} {shape_text(self.shape)}"

    @classmethod
    def of(cls, array: Array) -> TensorSpec:
        """Return the dtype and shape of `array`. Raises TypeError for a dtype that tensors don't support."""
        return cls(dtype_of(array).name, array.shape)

    def admits(self, shape: tuple[int | None, ...]) -> bool:
        """Return whether an array of `shape` matches."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            wanted in (None, size) for wanted, size in zip(self.shape, shape, strict=True)
        )

    def is_a(self, other: TensorSpec) -> bool:
        """Return whether every array that matches this spec also matches `other`."""
        if self.dtype != other.dtype or self.shape is None:
            return self == other
        return other.shape is None or (
            len(self.shape) == len(other.shape)
            and all(wanted in (None, size) for wanted, size in zip(other.shape, self.shape, strict=True))
        )


@dataclass(frozen=True)
class Signature:
    """One named function of a servable.

    `function` takes the inputs as keyword arguments, tensors whose first dimension is the batch. It returns a dict with
    exactly the `outputs`, tensors with the same batch, or another structure whose tensors get these names
    (`tfserving.export.outputs.named_outputs`). It may be a plain function, a `tf.function`, or a Keras model. A model
    is called with its only input, or with a dict of its inputs by name.

    A request may leave out the inputs in `defaults`. The server then feeds the default value as it is, so the function
    must accept it together with any batch, for example by broadcasting a batch of 1.

    With `batched` False the inputs share no batch dimension: scalars such as a threshold, the parts of a ragged tensor,
    one image of any size. A server can't batch such requests, so each costs a run of its own.

    A classify or regress signature has one input `inputs`, serialized tf.Examples (string, (None,)). A classify
    signature returns `classes` (string), `scores` (float32), or both, of shape (batch, classes). A regress signature
    returns `outputs`, float32 of shape (batch,) or (batch, 1).
    """

    function: Callable[..., Any]
    inputs: Mapping[str, TensorSpec]
    outputs: tuple[str, ...]
    method: Method = "predict"
    defaults: Mapping[str, Array] = field(default_factory=dict)
    batched: bool = True

    def call(self, inputs: Mapping[str, Any]) -> Any:
        """Return the result of `function` for tensors by name. Raises any error that it raises."""
        import keras

        if isinstance(self.function, keras.layers.Layer):
            return self.function(next(iter(inputs.values())) if len(inputs) == 1 else dict(inputs))
        return self.function(**inputs)


@dataclass(frozen=True)
class Servable:
    """A model that can be exported.

    `module` is the Keras model or `tf.Module` that holds the variables, or a list or dict of them.

    `examples` has real inputs for every signature, arrays with the batch first: at least 10 rows, better 32 or more.
    Golden requests are made of them. For a signature with `batched` False they are sequences with an array for each
    request, at least 3, of which at most 32 are used.

    `metrics` are written to the manifest. A `Metric` declares which direction is better; for a number, a rollout takes
    it from the name. `evaluation` has labelled rows, with which a rollout measures the served versions.

    `training_data` has a digest of what it was trained on, by the name of each data set: a SHA-256, `ALGORITHM:DIGITS`,
    `git:COMMIT`, or what `tfserving.export.training_data.digest_of` returns. It is written to the manifest.

    `checkpoint` has the arguments of `tf.train.Checkpoint` in training that are exported from a checkpoint, if they are
    not `{"model": module}`.
    """

    module: Any
    signatures: Mapping[str, Signature]
    examples: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, float | Metric] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    training_data: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ServableError with every declaration that can't be served, one in each line."""
        if problems := list(self._problems()):
            raise ServableError("\n".join(problems))

    def _problems(self) -> Iterator[str]:
        if not self.signatures:
            yield "the servable has no signature; add 'serving_default'"
        for name in self.examples.keys() - self.signatures.keys():
            yield f"examples[{name!r}]: there is no such signature; {_have(self.signatures)}"
        for name, value in self.metrics.items():
            if not isinstance(value, Metric) and not is_number(value):
                yield f"metrics[{name!r}]: expected a finite number, got {value!r} (convert numpy's with float(...))"
        yield from training_data.problems(self.training_data)
        if self.evaluation is not None:
            yield from _evaluation_problems(self.evaluation, self.signatures)
        for name, signature in self.signatures.items():
            where = f"signature {name!r}"
            if not NAME.fullmatch(name):
                yield f"{where}: use only letters, digits and '_' in the name, and begin with a letter"
            if signature.method not in get_args(Method):
                yield f"{where}: got method {signature.method!r}, expected {' or '.join(get_args(Method))}"
            yield from _declaration_problems(where, signature)
            yield from _default_problems(where, signature)
            yield from _method_problems(where, signature)
            check = _example_problems if signature.batched else _unbatched_problems
            yield from check(where, signature, self.examples.get(name, {}))


def _evaluation_problems(evaluation: Evaluation, signatures: Mapping[str, Signature]) -> Iterator[str]:
    """Yield the problems of labelled rows for a model with these signatures."""
    yield from (f"evaluation: {problem}" for problem in evaluation.problems())
    signature = signatures.get(evaluation.signature)
    if signature is None:
        yield f"evaluation: there is no signature {evaluation.signature!r}; {_have(signatures)}"
        return
    if not signature.batched:
        yield (
            f"evaluation: signature {evaluation.signature!r} takes one example per request (batched=False), but "
            "labelled rows are sent in batches. Measure in the builder and set `metrics`, or name another signature."
        )
        return
    if missing := signature.inputs.keys() - evaluation.inputs.keys() - signature.defaults.keys():
        yield f"evaluation: the input {_names(dict.fromkeys(sorted(missing)))} is missing"
    for name, array in evaluation.inputs.items():
        if name not in signature.inputs:
            yield f"evaluation: there is no input {name!r}; the inputs are {_names(signature.inputs)}"
        elif isinstance(array, np.ndarray):
            yield from _input_problems(f"evaluation, input {name!r}", array, signature.inputs[name])
    if evaluation.output is None and evaluation.metric_name in MEASURES and len(signature.outputs) > 1:
        yield f"evaluation: set `output` to the output to measure: {_names(dict.fromkeys(signature.outputs))}"
    elif evaluation.output not in (None, *signature.outputs):
        have = _names(dict.fromkeys(signature.outputs))
        yield f"evaluation: there is no output {evaluation.output!r}; the outputs are {have}"


def _input_problems(where: str, array: Array, spec: TensorSpec) -> Iterator[str]:
    """Yield the problems of rows of an input, for any number of rows."""
    expected = TensorSpec(spec.dtype, spec.shape and (None, *spec.shape[1:]))
    try:
        found = TensorSpec.of(array)
    except TypeError:
        return
    if found.dtype != expected.dtype or not expected.admits(array.shape):
        yield f"{where}: got {found}, the signature expects {expected}"


def _declaration_problems(where: str, signature: Signature) -> Iterator[str]:
    """Yield the problems of the inputs and outputs that `signature` declares."""
    if len(set(signature.outputs)) < len(signature.outputs):
        yield f"{where}: {signature.outputs} contains an output twice"
    for kind, names in (("input", signature.inputs), ("output", signature.outputs)):
        if not names:
            yield f"{where} declares no {kind}s"
        for name in names:
            if not NAME.fullmatch(name) or keyword.iskeyword(name):
                yield (
                    f"{where}, {kind} {name!r}: use only letters, digits and '_' in the name, begin with a letter, and "
                    "don't use a keyword of Python"
                )
    for name, spec in signature.inputs.items():
        if spec.dtype not in BY_NAME:
            yield f"{where}, input {name!r}: got dtype {spec.dtype!r}, expected one of {', '.join(BY_NAME)}"
        if spec.shape == () and signature.batched:
            yield (
                f"{where}, input {name!r} is a scalar. Make its first dimension the batch, None, or declare the "
                "signature with batched=False, so that it takes one example per request."
            )


def _default_problems(where: str, signature: Signature) -> Iterator[str]:
    """Yield the problems of the default values of inputs."""
    for name, value in signature.defaults.items():
        here = f"{where}: the default of input {name!r}"
        if name not in signature.inputs:
            yield f"{here}: there is no such input; the inputs are {_names(signature.inputs)}"
        elif not hasattr(value, "dtype") or TensorSpec.of(value).dtype != signature.inputs[name].dtype:
            yield f"{here}: got {value!r:.40}, expected a numpy array {signature.inputs[name]}"
        elif len(signature.defaults) == len(signature.inputs):
            reason = ", which has the rows of the batch" if signature.batched else ""
            yield f"{here}: at least one input must have no default{reason}"
        elif not signature.inputs[name].admits(value.shape):
            yield f"{here}: got {TensorSpec.of(value)}, the signature expects {signature.inputs[name]}"


def _method_problems(where: str, signature: Signature) -> Iterator[str]:
    """Yield the problems of the inputs and outputs of a classify or regress signature."""
    allowed = METHOD_OUTPUTS.get(signature.method)
    if allowed is None:
        return
    if not signature.batched:
        yield f"{where}: batched=False requires the method predict; {signature.method} takes a batch of tf.Examples"
    expected = TensorSpec("string", (None,))
    if dict(signature.inputs) != {EXAMPLES: expected}:
        found = ", ".join(f"{name!r}: {spec}" for name, spec in signature.inputs.items()) or "none"
        yield (
            f"{where}: {signature.method} requires the input {EXAMPLES!r}: {expected} alone, serialized tf.Examples; "
            f"got {found}"
        )
    if set(signature.outputs) not in allowed:
        names = " or ".join(" and ".join(map(repr, sorted(names))) for names in allowed)
        found = _names(dict.fromkeys(signature.outputs))
        yield f"{where}: {signature.method} requires the outputs {names}; got {found}"


def _example_problems(where: str, signature: Signature, examples: Mapping[str, Array]) -> Iterator[str]:
    """Yield the problems of the `examples` of `signature`."""
    if not examples:
        yield f"{where} has no examples; give at least {FEWEST_EXAMPLES} real rows of {_names(signature.inputs)}"
        return
    if examples.keys() != signature.inputs.keys():
        yield f"{where}: the examples have the inputs {_names(examples)}, expected {_names(signature.inputs)}"
        return
    for name, spec in signature.inputs.items():
        array, here = examples[name], f"{where}: the examples of input {name!r}"
        try:
            dtype = dtype_of(array).name
        except (TypeError, AttributeError):
            yield (
                f"{here}: got {type(array).__name__}, expected a numpy array {spec} (or, with batched=False, one array "
                "for each request)"
            )
            continue
        # A batch can be made of any number of examples.
        expected = TensorSpec(spec.dtype, spec.shape and (None, *spec.shape[1:]))
        if dtype != expected.dtype or not expected.admits(array.shape):
            yield f"{here}: got {TensorSpec(dtype, array.shape)}, the signature expects {spec}"
    rows = {name: len(array) if array.ndim else 0 for name, array in examples.items() if hasattr(array, "ndim")}
    if len(set(rows.values())) > 1:
        yield (
            f"{where}: the inputs have different numbers of example rows: {rows}. If the inputs share no batch "
            "dimension, declare the signature with batched=False."
        )
    elif rows and min(rows.values()) < FEWEST_EXAMPLES:
        yield f"{where}: got {min(rows.values())} rows of examples, expected at least {FEWEST_EXAMPLES}"


def _unbatched_problems(where: str, signature: Signature, examples: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Yield the problems of the `examples` of a `signature` without a batch."""
    needed = f"at least {FEWEST_UNBATCHED}, one for each request"
    if examples.keys() != signature.inputs.keys():
        found, expected = _names(examples), _names(signature.inputs)
        yield f"{where}: the examples have the inputs {found}, expected {expected} with {needed}"
        return
    for name, value in examples.items():
        if (
            isinstance(value, (bytes, str))
            or not isinstance(value, (Sequence, np.ndarray))
            or (isinstance(value, np.ndarray) and not value.ndim)
        ):
            yield (
                f"{where}: the examples of input {name!r}: got one {type(value).__name__}, expected a list of arrays "
                f"{signature.inputs[name]}, {needed}"
            )
            return
    lengths = {name: len(values) for name, values in examples.items()}
    if len(set(lengths.values())) > 1:
        yield f"{where}: the inputs have different numbers of examples: {lengths}. Give one for each request."
    elif min(lengths.values()) < FEWEST_UNBATCHED:
        yield f"{where}: got {min(lengths.values())} examples, expected {needed}"
    for name, values in examples.items():
        yield from _misfits(f"input {name!r}", where, signature.inputs[name], values)


def _misfits(what: str, where: str, expected: TensorSpec, values: Sequence[Any]) -> Iterator[str]:
    """Yield the first problem of the examples `values`."""
    for number, value in enumerate(values):
        try:
            array = one_array(value)
            found = TensorSpec.of(array)
        except (TypeError, ValueError):
            yield f"{where}: example {number} of {what}: got a {type(value).__name__}, expected an array {expected}"
            return
        if found.dtype != expected.dtype or not expected.admits(array.shape):
            yield f"{where}: example {number} of {what}: got {found}, the signature expects {expected}"
            return


def one_array(value: Any) -> Array:
    """Return an example of one input as an array. A string becomes an object: numpy's own dtype drops trailing NULs."""
    return np.array(value, np.object_) if isinstance(value, (bytes, str)) else np.asarray(value)


def shape_text(shape: tuple[int | None, ...] | None) -> str:
    """Return a shape as messages show it: `(?, 224, 224, 3)`, or `of any rank`."""
    if shape is None:
        return "of any rank"
    sizes = ["?" if size is None else str(size) for size in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _have(names: Mapping[str, object]) -> str:
    return f"the signatures are {_names(names)}"
