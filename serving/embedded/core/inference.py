"""Inference: the one place where requests of both protocols are answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import NamedTuple, TypeVar

from tfserving.foundation.tensors import MOST_DIMENSIONS, Array, dtype_of
from tfserving.serving.embedded.core.loader import Servable
from tfserving.serving.embedded.core.served import Handle, Served
from tfserving.serving.embedded.core.signature import Signature, runtime_name
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.observability.metrics import count_run

T = TypeVar("T")

# What predict can be asked, when methods are checked.
METHODS = ("tensorflow/serving/predict", "tensorflow/serving/classify", "tensorflow/serving/regress")
# Errors that an input's shape can be the cause of.
_OF_INPUTS = (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.OUT_OF_RANGE)


class ModelSpec(NamedTuple):
    """What a request asks for: a model, and its version by number or by label; neither means the highest."""

    name: str
    version: int | None = None
    label: str | None = None


def acquire(served: Served, spec: ModelSpec) -> Handle:
    """A handle to the version that `spec` asks for.

    Raises RequestError: INVALID_ARGUMENT without a name or for an unknown label, NOT_FOUND for anything not available.
    """
    if not spec.name:
        raise RequestError(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
    return served.handle(spec.name, spec.version, spec.label)


def predict(
    servable: Servable,
    signature: Signature,
    sent: Mapping[str, T],
    decode: Callable[[T], Array],
    output_filter: Sequence[str] = (),
) -> dict[str, Array]:
    """Runs `signature` on the inputs `sent`, decoded; returns its outputs by name, or those that a filter names.

    Shapes are checked before TensorFlow sees the tensors: operations exist that end the process when a tensor has
    another rank than they expect. Without that check, as in TensorFlow Serving, the graph takes whatever it accepts.

    Raises RequestError: INVALID_ARGUMENT for names, tensors, types and shapes that don't fit, else the runtime's own.
    """
    if servable.check_methods and signature.method not in METHODS:
        wanted = ", ".join(METHODS)
        text = f"Expected prediction signature method_name to be one of {{{wanted}}}. Was: {signature.method}"
        raise RequestError(Code.INTERNAL, text)
    inputs = signature.inputs
    if len(sent) != len(inputs) or not all(map(sent.__contains__, inputs)):
        _check_names(signature, sent)
    arrays: list[Array] = []
    for name in inputs:
        try:
            array = decode(sent[name]) if name in sent else signature.defaults[name]
        except ValueError as error:
            raise _parsing_error(signature, name, str(error)) from None
        if array.ndim > MOST_DIMENSIONS:
            raise _parsing_error(signature, name, f"it has {array.ndim} dimensions, {MOST_DIMENSIONS} are the most")
        arrays.append(array)
    outputs = _outputs(signature, output_filter) if output_filter else signature.output_names
    if [array.dtype for array in arrays] != signature.dtypes:
        _check_types(signature, arrays)
    if servable.check_shapes and not signature.fit(arrays):
        raise wrong_shape(signature, arrays)
    started = monotonic()
    try:
        values = servable.run(signature, arrays, outputs)
    except RequestError as error:
        if error.code in _OF_INPUTS:
            named = dict(zip(inputs, arrays, strict=True))
            raise RequestError(error.code, error.text, explain_shapes(signature, named)) from None
        raise
    count_run(servable.model, "Predict", started)
    return dict(zip(outputs, values, strict=True))


def explain_shapes(signature: Signature, arrays: Mapping[str, Array]) -> str:
    """Which of `arrays` have a shape that `signature` doesn't say, with both; nothing when all fit."""
    return ", ".join(
        f"{describe(name, array)}, {_wants(signature, name)}"
        for name, array in arrays.items()
        if not signature.inputs[name].fits(array.shape)
    )


def wrong_shape(signature: Signature, arrays: Sequence[Array]) -> RequestError:
    """The error for `arrays`, one for each input, that don't fit; in the words of a graph that checks its inputs."""
    named = dict(zip(signature.inputs, arrays, strict=True))
    name, array = next((name, array) for name, array in named.items() if not signature.inputs[name].fits(array.shape))
    spec = signature.inputs[name]
    wanted = ",".join("?" if size < 0 else str(size) for size in spec.shape or ())
    sent = ",".join(map(str, array.shape))
    text = f"Shape of tensor {spec.tensor.partition(':')[0]} [{sent}] is not compatible with expected shape [{wanted}]."
    return RequestError(Code.INVALID_ARGUMENT, text, explain_shapes(signature, named))


def describe(name: str, array: Array) -> str:
    """One input as an error names it: `inputs['x'] has dtype float32 and shape (1, 3)`."""
    return f"inputs[{name!r}] has dtype {dtype_of(array).name} and shape {array.shape}"


def _wants(signature: Signature, name: str) -> str:
    return f"signature {signature.name!r} wants {signature.inputs[name]}"


def _names(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _check_names(signature: Signature, sent: Mapping[str, object]) -> None:
    wanted = signature.inputs
    missing = [name for name in wanted if name not in sent and name not in signature.defaults]
    extra = [name for name in sent if name not in wanted]
    if not missing and not extra:
        return
    if len(sent) != len(wanted):
        text = (
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_names(sent)}) != "
            f"len({_names(wanted)}). Sent extra: {_names(extra)}. Missing but required: {_names(missing)}."
        )
    else:
        text = (
            f"Signature input alias: {missing[0]}(feed name: {wanted[missing[0]].tensor}) not found in request and no "
            f"default value provided. Inputs expected to be in the request {_names(sent)}, or default input alias "
            f"set: {','.join(sorted(signature.defaults))}"
        )
    wants = ", ".join(f"{name!r}: {spec}" for name, spec in wanted.items()) or "no inputs"
    explanation = (
        f"sent are {', '.join(map(repr, sorted(sent))) or 'no inputs'}, signature {signature.name!r} wants {wants}"
    )
    raise RequestError(Code.INVALID_ARGUMENT, text, explanation)


def _check_types(signature: Signature, arrays: Sequence[Array]) -> None:
    for index, ((name, spec), array) in enumerate(zip(signature.inputs.items(), arrays, strict=True)):
        wanted = spec.dtype
        if wanted is not None and array.dtype != wanted.numpy:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Expects arg[{index}] to be {runtime_name(wanted)} but {runtime_name(dtype_of(array))} is provided",
                f"{describe(name, array)}, {_wants(signature, name)}",
            )


def _parsing_error(signature: Signature, name: str, why: str) -> RequestError:
    text = f"tensor parsing error: {name}"
    return RequestError(Code.INVALID_ARGUMENT, text, f"{why}; {_wants(signature, name)}")


def _outputs(signature: Signature, output_filter: Iterable[str]) -> tuple[str, ...]:
    chosen: list[str] = []
    for name in output_filter:
        if name not in signature.outputs:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{_names(signature.outputs)}.",
            )
        if name in chosen:
            raise RequestError(Code.INVALID_ARGUMENT, f"duplicate output tensor alias: {name}")
        chosen.append(name)
    return tuple(chosen)
