"""Runs the live model as a server will, and checks that its outputs are what its signature declares."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tfserving.export.errors import LintError, ServableError
from tfserving.export.outputs import named_outputs
from tfserving.export.rows import described, rows_in
from tfserving.export.servable import Signature, one_array
from tfserving.export.user_code import raised
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array


class LiveSignature:
    """One signature of the live model."""

    def __init__(self, name: str, signature: Signature, allow: Collection[str] = ()) -> None:
        """`allow` lists the rules of lint that may be broken."""
        self.name = name
        self.signature = signature
        self._allow = allow

    def run(self, inputs: Mapping[str, Array]) -> GoldenRequest:
        """Return the request with the live model's outputs, as they are on the wire.

        Raises ServableError when the function fails, or returns other outputs than it declares.
        """
        inputs = {name: wire_array(array) for name, array in inputs.items()}
        return GoldenRequest(self.name, inputs, self._outputs(inputs), self.signature.method)

    def _outputs(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        import tensorflow as tf

        signature = self.signature
        where = f"signature {self.name!r}"
        tensors = {
            input_name: tf.constant(array, dtype=signature.inputs[input_name].dtype)
            for input_name, array in {**signature.defaults, **inputs}.items()
        }
        try:
            outputs = signature.call(tensors)
        except (Exception, SystemExit) as error:
            raise ServableError(
                f"{where}: its function fails for {described(inputs)}: {raised(error, signature.function)}"
            ) from error
        return {
            output: self._array(f"{where}, output {output!r}", tensor, rows_in(inputs))
            for output, tensor in named_outputs(outputs, signature.outputs, where).items()
        }

    def _array(self, where: str, tensor: Any, rows: int | None) -> Array:
        array = wire_array(one_array(tensor.numpy()))
        if self.signature.batched and array.shape[:1] != (rows,) and "output-batch" not in self._allow:
            raise LintError(
                f"[output-batch] {where} has shape {array.shape} for {rows} rows. It must begin with the batch. "
                "Return a row for each row, or declare the signature with batched=False."
            )
        return array


def wire_array(array: Array) -> Array:
    """Return `array` as it is on the wire: strings as an object array of bytes."""
    if array.dtype.kind not in "SUO":
        return array
    as_bytes = np.empty(array.shape, np.object_)
    as_bytes.ravel()[:] = [value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()]
    return as_bytes
