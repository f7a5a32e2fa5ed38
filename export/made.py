"""Random inputs for a SavedModel that has no recorded requests: values of its signature's dtypes and shapes.

They prove that a version returns what its SavedModel returns. They are no measure of the model's quality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tfserving.export.examples import serialized_examples
from tfserving.export.feature_specs import Feature
from tfserving.export.servable import Signature, TensorSpec
from tfserving.foundation.tensors import BY_NAME, STRING, Array

ROWS = 32
EXAMPLES = 8
WORDS = ("the cat sat on the mat", "", "Zürich", "a longer text, of two sentences. This is the second.", "42")


@dataclass(frozen=True)
class _Kind:
    """How values are made: the size of unknown dimensions, a limit of integers, and whether strings are images."""

    size: int
    integers: int
    pictures: bool = False


# The most likely first. Indices and segment types are small, images are larger than convolution kernels, and strings
# that are not text are most often images.
KINDS = (
    _Kind(3, 10),
    _Kind(3, 2),
    _Kind(64, 10),
    _Kind(64, 2),
    _Kind(224, 2),
    _Kind(3, 10, pictures=True),
)


def made_examples(signature: Signature, features: Mapping[str, Mapping[str, Feature]]) -> Iterator[dict[str, Array]]:
    """Yield inputs to try, the most likely first, the same in each run: 32 rows, or as many as the signature fixes.

    A signature without a batch gets 8 examples. Strings of an input that has `features` are tf.Examples.
    """
    seen: set[tuple[int, int, bool]] = set()
    sizes = any(
        None in ((spec.shape or ())[1:] if signature.batched else spec.shape or (None,))
        for spec in signature.inputs.values()
    )
    integers = any("int" in dtype for dtype in _dtypes(signature, features))
    strings = any(spec.dtype == "string" and name not in features for name, spec in signature.inputs.items())
    for kind in KINDS:
        # A kind that makes no difference to this signature is not tried twice.
        key = kind.size if sizes else 0, kind.integers if integers else 0, kind.pictures and strings
        if key in seen:
            continue
        seen.add(key)
        random = np.random.default_rng(1)
        yield {
            name: _examples(features[name], kind, random)
            if name in features
            else _array(spec.dtype, _shape(spec, kind, batched=signature.batched), kind, random)
            for name, spec in sorted(signature.inputs.items())
        }


def _dtypes(signature: Signature, features: Mapping[str, Mapping[str, Feature]]) -> Iterator[str]:
    yield from (spec.dtype for spec in signature.inputs.values())
    yield from (feature.dtype for parsed in features.values() for feature in parsed.values())


def _shape(spec: TensorSpec, kind: _Kind, *, batched: bool) -> tuple[int, ...]:
    """Return the shape of an input's examples. For unknown ranks they are numbers, or vectors without a batch."""
    shape = (None,) if spec.shape is None else spec.shape
    rows, sizes = (shape[0] or ROWS, shape[1:]) if batched else (EXAMPLES, shape)
    return (rows, *(kind.size if size is None else size for size in sizes))


def _array(dtype: str, shape: tuple[int, ...], kind: _Kind, random: np.random.Generator) -> Array:
    wire = BY_NAME[dtype]
    if wire is STRING:
        made = np.empty(shape, np.object_)
        picture = _picture(random) if kind.pictures else b""
        made.ravel()[:] = [picture or WORDS[index % len(WORDS)].encode() for index in range(made.size)]
        return made
    if dtype == "bool":
        return random.random(shape) < 0.5  # noqa: PLR2004 - a coin
    if "int" in dtype:
        return random.integers(0, kind.integers, shape).astype(wire.numpy)
    return random.standard_normal(shape).astype(wire.numpy)


def _examples(features: Mapping[str, Feature], kind: _Kind, random: np.random.Generator) -> Array:
    """Return serialized tf.Examples."""
    columns = {name: _array(feature.dtype, (ROWS, feature.values), kind, random) for name, feature in features.items()}
    return serialized_examples({name: column[row] for name, column in columns.items()} for row in range(ROWS))


def _picture(random: np.random.Generator) -> bytes:
    """Return a JPEG of 64 x 64 pixels."""
    import tensorflow as tf

    return bytes(tf.io.encode_jpeg(random.integers(0, 256, (64, 64, 3)).astype(np.uint8)).numpy())
