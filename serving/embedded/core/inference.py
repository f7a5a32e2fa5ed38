"""Inference: runs the requests of both protocols."""

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

# The methods of signatures that predict accepts, when methods are checked.
METHODS = ("tensorflow/serving/predict", "tensorflow/serving/classify", "tensorflow/serving/regress")
# Error codes that a wrong input shape can cause.
_OF_INPUTS = (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.OUT_OF_RANGE)


class ModelSpec(NamedTuple):
    """A model, and its version by number or by label; with neither, the highest version."""

    name: str
    version: int | None = None
    label: str | None = None


def acquire(served: Served, spec: ModelSpec) -> Handle:
    """Returns a handle to the version of `spec`.

    Raises RequestError: INVALID_ARGUMENT without a name or for an unknown label, NOT_FOUND when it is not available.
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
    """Decodes the inputs `sent` and runs `signature`; returns the outputs by name, or those in `output_filter`.

    Shapes are checked before TensorFlow gets the tensors, because some operations end the process when the rank of a
    tensor is wrong. Without that check the graph decides which shapes it accepts, as in TensorFlow Serving.

    Raises RequestError: INVALID_ARGUMENT for wrong names, tensors, types and shapes, else the runtime's own error.
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
            raise _parsing_error(signature, name, f"got {array.ndim} dimensions, at most {MOST_DIMENSIONS} are allowed")
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
    """Describes those of `arrays` whose shape is not the signature's; empty when all fit."""
    return ", ".join(
        _mismatch(signature, name, array)
        for name, array in arrays.items()
        if not signature.inputs[name].fits(array.shape)
    )


def wrong_shape(signature: Signature, arrays: Sequence[Array]) -> RequestError:
    """Returns the error for `arrays` of wrong shapes, one for each input, with the text of a graph's own check."""
    named = dict(zip(signature.inputs, arrays, strict=True))
    name, array = next((name, array) for name, array in named.items() if not signature.inputs[name].fits(array.shape))
    spec = signature.inputs[name]
    wanted = ",".join("?" if size < 0 else str(size) for size in spec.shape or ())
    sent = ",".join(map(str, array.shape))
    text = f"Shape of tensor {spec.tensor.partition(':')[0]} [{sent}] is not compatible with expected shape [{wanted}]."
    return RequestError(Code.INVALID_ARGUMENT, text, explain_shapes(signature, named))


def _mismatch(signature: Signature, name: str, array: Array) -> str:
    """Returns `inputs['x']: got float32 (1, 3), expected float32 (?, 4)`."""
    return f"inputs[{name!r}]: got {dtype_of(array).name} {array.shape}, expected {signature.inputs[name]}"


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
    expected = ", ".join(f"{name!r}: {spec}" for name, spec in wanted.items()) or "no inputs"
    got = ", ".join(map(repr, sorted(sent))) or "no inputs"
    explanation = f"got {got}; signature {signature.name!r} expects {expected}"
    raise RequestError(Code.INVALID_ARGUMENT, text, explanation)


def _check_types(signature: Signature, arrays: Sequence[Array]) -> None:
    for index, ((name, spec), array) in enumerate(zip(signature.inputs.items(), arrays, strict=True)):
        wanted = spec.dtype
        if wanted is not None and array.dtype != wanted.numpy:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Expects arg[{index}] to be {runtime_name(wanted)} but {runtime_name(dtype_of(array))} is provided",
                _mismatch(signature, name, array),
            )


def _parsing_error(signature: Signature, name: str, why: str) -> RequestError:
    text = f"tensor parsing error: {name}"
    return RequestError(Code.INVALID_ARGUMENT, text, f"{why}; expected {signature.inputs[name]}")


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
