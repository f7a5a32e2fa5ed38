"""The live model, asked as a server will be: its answer has to be what its signature declares."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from tfserving.export.errors import LintError, ServableError
from tfserving.export.servable import Signature
from tfserving.export.user_code import raised
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import BY_NAME, Array


class LiveSignature:
    """One signature of the live model."""

    def __init__(self, name: str, signature: Signature, allow: Collection[str] = ()) -> None:
        """`allow` has the rules of lint that may be broken."""
        self.name = name
        self.signature = signature
        self._allow = allow

    def ask(self, inputs: Mapping[str, Array]) -> GoldenRequest:
        """The request with what the live model answers, as it is on the wire.

        Raises ServableError when the function fails, or answers other outputs than were declared.
        """
        inputs = {name: wire_array(array) for name, array in inputs.items()}
        return GoldenRequest(self.name, inputs, self._answer(inputs), self.signature.method)

    def _answer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        import tensorflow as tf

        signature = self.signature
        where = f"signature {self.name!r}"
        batch = len(next(iter(inputs.values())))
        tensors = {
            input_name: tf.constant(array, dtype=signature.inputs[input_name].dtype)
            for input_name, array in {**signature.defaults, **inputs}.items()
        }
        try:
            outputs = signature.function(**tensors)
        except Exception as error:
            raise ServableError(
                f"{where}: its function failed on a batch of {batch}: {raised(error, signature.function)}"
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


def wire_array(array: Array) -> Array:
    """`array` as it comes back from the wire: strings as an object array of bytes."""
    if array.dtype.kind not in "SUO":
        return array
    as_bytes = np.empty(array.shape, np.object_)
    as_bytes.ravel()[:] = [value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()]
    return as_bytes


def _output_array(where: str, value: Any) -> Array:
    import tensorflow as tf

    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        raise ServableError(f"{where} is a {type(value).__name__}, only dense tensors can be served") from None
    if tensor.dtype.name not in BY_NAME:
        raise ServableError(f"{where} is of {tensor.dtype.name}, which no client can read; cast it")
    return wire_array(np.asarray(tensor.numpy()))


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
