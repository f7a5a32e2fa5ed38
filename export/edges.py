"""Edge values: inputs that examples rarely contain and that clients send sooner or later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from tfserving.export.servable import EXAMPLES, Signature
from tfserving.foundation.examples import read_examples
from tfserving.foundation.tensors import STRING, Array, dtype_of

# Decomposed and combining characters, right-to-left text, code points beyond 16 bits, and a width of zero.
UNICODE = "ﬁ Ünïcødé e\u0301 漢字 עברית 🙂\u200b"
# Integers of this size in bytes or more can be counts and lengths; the largest one would fill the memory.
COUNTS = 4


def edge_rows(signature: Signature, examples: Mapping[str, Array]) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield names of edge values with batches of one row: the first of the `examples`, with its values replaced.

    Numbers are replaced by zero, and by the largest and the smallest of their dtype (for 32- and 64-bit integers: of
    the examples). Floats are replaced by NaN, strings by the empty string and by various Unicode characters. In a
    tf.Example the values of the features are replaced.
    """
    for edge in EDGES:
        if signature.method != "predict":
            row = _example(examples[EXAMPLES], edge)
            if row is not None:
                yield edge, {EXAMPLES: row}
            continue
        rows = {name: replaced(array[:1], edge, among=array) for name, array in examples.items()}
        if any(row is not None for row in rows.values()):
            yield edge, {name: examples[name][:1] if row is None else row for name, row in rows.items()}


EDGES = ("zero", "largest", "smallest", "nan", "empty", "unicode")


def replaced(array: Array, edge: str, among: Array | None = None) -> Array | None:
    """Return `array` filled with `edge`; None when its dtype has no such value.

    Large integers are replaced by the largest and smallest `among` those of another array.
    """
    value = _value(array if among is None else among, edge)
    if value is None:
        return None
    new = np.empty(array.shape, array.dtype if dtype_of(array) is not STRING else np.object_)
    new[...] = value
    return new


def _value(examples: Array, edge: str) -> Any:
    if dtype_of(examples) is STRING:
        return {"empty": b"", "unicode": UNICODE.encode()}.get(edge)
    if edge == "zero":
        return examples.dtype.type(0)
    if examples.dtype.kind in "iu":
        limits = np.iinfo(examples.dtype)
        if examples.dtype.itemsize >= COUNTS:
            return {"largest": examples.max(), "smallest": examples.min()}.get(edge)
        return {"largest": limits.max, "smallest": limits.min}.get(edge)
    # The kind of bfloat16 in numpy is V.
    if examples.dtype.kind in "fV":
        largest = ml_dtypes.finfo(examples.dtype).max  # type: ignore[no-untyped-call]
        return {"largest": largest, "smallest": -largest, "nan": np.nan}.get(edge)
    return None


def _example(examples: Array, edge: str) -> Array | None:
    """Return the first tf.Example with `edge` for all values of a kind; None when no feature has such values."""
    (example,) = read_examples(examples[:1].tolist()).examples
    changed = False
    for feature in example.features.feature.values():
        kind = feature.WhichOneof("kind")
        if kind is None:
            continue
        values = getattr(feature, kind).value
        dtype = {"float_list": np.float32, "int64_list": np.int64, "bytes_list": np.object_}[kind]
        array = np.empty(len(values), dtype)
        array[:] = list(values)
        value = _value(array, edge) if len(values) else None
        if value is not None:
            changed = True
            values[:] = [value] * len(values)
    if not changed:
        return None
    row = np.empty(1, np.object_)
    row[0] = example.SerializeToString(deterministic=True)
    return row
