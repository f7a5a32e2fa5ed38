"""Tensors of more than 64 dimensions. TensorFlow allows up to 254, and numpy 64.

Only a graph can hold them, so a copy of the graph takes and returns them as serialized TensorProtos.
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
    """A tensor as its elements and its shape, with the attributes of an array."""

    flat: Array
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type."""
        return self.flat.dtype

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.flat.size

    def ravel(self) -> Array:
        """Returns the elements in one dimension."""
        return self.flat


def shaped(flat: Array, shape: tuple[int, ...]) -> Any:
    """Returns the elements `flat` in `shape`: an array, or a Deep."""
    return flat.reshape(shape) if len(shape) <= NUMPYS_MOST else Deep(flat, shape)


def write_shape(proto: Any, shape: Sequence[int]) -> None:
    """Sets the shape of the TensorProto `proto`."""
    del proto.tensor_shape.dim[:]
    for size in shape:
        proto.tensor_shape.dim.add(size=size)


def make_deep_run(
    session: Any, feeds: Sequence[str], fetches: Sequence[str]
) -> Callable[[Any, Sequence[Any]], list[Any]]:
    """Returns a function of RunOptions, or None, and arrays. It runs a copy of the graph; arrays can be Deep."""
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
