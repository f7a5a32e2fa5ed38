"""The signatures of a SavedModel: names, element types and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tfserving.foundation.tensors import BY_NUMBER, Array, DType, from_proto

DEFAULT_SIGNATURE = "serving_default"
Shape = tuple[int, ...]

# The element types whose names in the runtime's error texts differ from their Python names.
_RUNTIME_NAMES = {"float32": "float", "float64": "double", "float16": "half"}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its name in the graph, element type and shape.

    An unknown size in the shape is -1; None is a shape of any rank.
    """

    tensor: str
    dtype: DType | None
    shape: Shape | None

    def __str__(self) -> str:
        """`float32 (?, 3)`."""
        return f"{self.dtype.name if self.dtype else 'no dtype'} {show_shape(self.shape)}"

    def fits(self, shape: Shape) -> bool:
        """Returns whether `shape` has the same rank and the known sizes."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (-1, size) for size, want in zip(shape, self.shape, strict=True)
        )


@dataclass(frozen=True)
class Signature:
    """A named function of a SavedModel. `defaults` has the values of inputs that a request may omit."""

    name: str
    method: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: Mapping[str, Array]

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in order."""
        return tuple(self.outputs)

    @cached_property
    def dtypes(self) -> list[np.dtype[Any] | None]:
        """The element types of the inputs, in order."""
        return [spec.dtype.numpy if spec.dtype else None for spec in self.inputs.values()]

    @cached_property
    def _shapes(self) -> list[tuple[int, tuple[tuple[int, int], ...]] | None]:
        """For each input its rank, and its known sizes with their axes; None for a shape of any rank."""
        return [
            None
            if spec.shape is None
            else (len(spec.shape), tuple((axis, size) for axis, size in enumerate(spec.shape) if size >= 0))
            for spec in self.inputs.values()
        ]

    def fit(self, arrays: Sequence[Array]) -> bool:
        """Returns whether `arrays`, one for each input in order, have the ranks and known sizes of the inputs."""
        for array, wanted in zip(arrays, self._shapes, strict=True):
            if wanted is None:
                continue
            shape = array.shape
            if len(shape) != wanted[0]:
                return False
            for axis, size in wanted[1]:
                if shape[axis] != size:
                    return False
        return True


def read_signature(name: str, definition: Any) -> Signature:
    """Returns the signature of a SignatureDef, with inputs and outputs sorted by name."""
    return Signature(
        name=name,
        method=definition.method_name,
        inputs={key: _spec(definition.inputs[key]) for key in sorted(definition.inputs)},
        outputs={key: _spec(definition.outputs[key]) for key in sorted(definition.outputs)},
        defaults={key: from_proto(definition.defaults[key]) for key in sorted(definition.defaults)},
    )


def runtime_name(dtype: DType | None) -> str:
    """Returns the name of `dtype` in TensorFlow's C++ runtime: float, double and half for the floats."""
    return _RUNTIME_NAMES.get(dtype.name, dtype.name) if dtype else "invalid"


def show_shape(shape: Shape | None) -> str:
    """Returns `(?, 3)` for (-1, 3)."""
    if shape is None:
        return "of any shape"
    sizes = ["?" if size < 0 else str(size) for size in shape]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _spec(info: Any) -> TensorSpec:
    shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(tensor=info.name, dtype=BY_NUMBER.get(info.dtype), shape=shape)
