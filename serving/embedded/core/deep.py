"""Tensors of more than 64 dimensions: TensorFlow has up to 254, numpy doesn't.

Nothing but the graph itself can hold them, so a copy of it takes them serialized, as TensorProtos, and answers so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfserving.foundation.messages import TensorProto
from tfserving.foundation.tensors import Array, read_flat, to_proto

NUMPYS_MOST = 64


@dataclass(frozen=True)
class Deep:
    """A tensor as its elements and its shape; for those who only look it has an array's attributes."""

    flat: Array
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        return self.flat.dtype

    @property
    def size(self) -> int:
        """How many elements it has."""
        return self.flat.size

    def ravel(self) -> Array:
        """Its elements in one dimension."""
        return self.flat


def shaped(flat: Array, shape: tuple[int, ...]) -> Any:
    """The elements `flat` in `shape`: an array, or a Deep."""
    return flat.reshape(shape) if len(shape) <= NUMPYS_MOST else Deep(flat, shape)


def write_shape(proto: Any, shape: Sequence[int]) -> None:
    """Gives the TensorProto `proto`, which has the elements, another shape."""
    del proto.tensor_shape.dim[:]
    for size in shape:
        proto.tensor_shape.dim.add(size=size)


def make_deep_run(
    session: Any, feeds: Sequence[str], fetches: Sequence[str]
) -> Callable[[Any, Sequence[Any]], list[Any]]:
    """A function of RunOptions, or None, and arrays, Deep ones too, both ways: it runs a copy of the graph."""
    from tensorflow.python.framework import dtypes, importer
    from tensorflow.python.ops import array_ops, gen_parsing_ops

    graph = session.graph
    with graph.as_default():
        serialized = [array_ops.placeholder(dtypes.string, []) for _ in feeds]
        fed = {
            name: gen_parsing_ops.parse_tensor(text, graph.get_tensor_by_name(name).dtype)
            for name, text in zip(feeds, serialized, strict=True)
        }
        outputs = importer.import_graph_def(graph.as_graph_def(), fed, list(fetches), name="deep")
        results = [gen_parsing_ops.serialize_tensor(output) for output in outputs]

    def run(options: Any, arrays: Sequence[Any]) -> list[Any]:
        given = {text: _serialized(array) for text, array in zip(serialized, arrays, strict=True)}
        return [
            shaped(*read_flat(TensorProto.FromString(result)))
            for result in session.run(results, given, options=options)
        ]

    return run


def _serialized(array: Any) -> bytes:
    proto = to_proto(array.ravel())
    write_shape(proto, array.shape)
    return proto.SerializeToString()  # type: ignore[no-any-return]
