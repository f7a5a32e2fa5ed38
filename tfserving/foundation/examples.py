"""tf.Examples, the inputs of classify and regress: from Python's values, to JSON, and in the messages of a request."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from tfserving.foundation.messages import Example
from tfserving.foundation.tensors import Array

# Features by name (a number, str or bytes, or a list or array of one kind of them), an Example message, or its bytes.
ExampleLike: TypeAlias = Any


@dataclass(frozen=True)
class Examples:
    """The examples of one request, and the context whose features each of them has too unless it has its own."""

    examples: tuple[Any, ...]
    context: Any | None = None

    def write(self, sent: Any) -> None:
        """Writes them into the Input message `sent`."""
        if self.context is None:
            sent.example_list.examples.extend(self.examples)
        else:
            sent.example_list_with_context.examples.extend(self.examples)
            sent.example_list_with_context.context.CopyFrom(self.context)

    def json(self) -> dict[str, Any]:
        """What a REST request has under `examples` and `context`, bytes as base64."""
        body: dict[str, Any] = {"examples": [_features(example) for example in self.examples]}
        return body if self.context is None else body | {"context": _features(self.context)}


def read_examples(examples: Iterable[ExampleLike], context: ExampleLike | None = None) -> Examples:
    """The examples that a caller hands in.

    Raises ValueError, naming the example and the feature, for a value that no tf.Example can hold, and without any
    example.
    """
    if isinstance(examples, (Mapping, bytes, str)):
        raise ValueError(f"examples is a sequence of tf.Examples, not one {type(examples).__name__}; put it in a list")
    read = tuple(_example(f"examples[{number}]", example) for number, example in enumerate(examples))
    if not read:
        raise ValueError("examples is empty; at least one is needed")
    return Examples(read, None if context is None else _example("context", context))


def class_arrays(rows: Sequence[Sequence[tuple[str, float]]]) -> tuple[Array, Array]:
    """For each example its classes as label and score, as two arrays (examples, classes): str, and float32.

    Raises ValueError when the examples have different numbers of classes.
    """
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"examples have {' and '.join(map(str, sorted(widths)))} classes, not all as many")
    shape = (len(rows), widths.pop() if widths else 0)
    labels, scores = np.empty(shape, np.object_), np.empty(shape, np.float32)
    for number, row in enumerate(rows):
        labels[number] = [label for label, _ in row]
        scores[number] = [score for _, score in row]
    return labels, scores


def _example(where: str, value: ExampleLike) -> Any:
    if isinstance(value, bytes):
        try:
            return Example.FromString(value)
        except DecodeError:
            raise ValueError(f"{where} is no serialized tf.Example") from None
    if isinstance(value, Mapping):
        example = Example()
        for name, feature in value.items():
            _fill(f"{where}[{name!r}]", example.features.feature[name], feature)
        return example
    if hasattr(value, "features") and hasattr(value, "SerializeToString"):
        return Example.FromString(value.SerializeToString())
    raise ValueError(f"{where} is a {type(value).__name__}; a dict of features, an Example or its bytes is needed")


def _fill(where: str, feature: Any, value: Any) -> None:
    elements: Sequence[Any] = np.asarray(value).ravel().tolist() if hasattr(value, "__array__") else value
    if not isinstance(elements, (list, tuple)):
        elements = [elements]
    kinds = {_kind(where, element) for element in elements}
    if kinds == {"int64", "float"}:
        kinds = {"float"}
    if len(kinds) > 1:
        raise ValueError(f"{where} mixes {' and '.join(sorted(kinds))}; a feature is of one kind")
    for kind in kinds:
        field = getattr(feature, f"{kind}_list").value
        try:
            field.extend(_plain(element) for element in elements)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{where}: {error}") from None


def _plain(element: Any) -> Any:
    if isinstance(element, str):
        return element.encode()
    return int(element) if isinstance(element, (bool, np.bool_)) else element


def _kind(where: str, element: Any) -> str:
    if isinstance(element, (str, bytes)):
        return "bytes"
    if isinstance(element, (bool, int, np.integer, np.bool_)):
        return "int64"
    if isinstance(element, (float, np.floating)):
        return "float"
    raise ValueError(f"{where} holds a {type(element).__name__}; a feature holds numbers, str or bytes")


def _features(example: Any) -> dict[str, list[Any]]:
    return {name: _values(feature) for name, feature in sorted(example.features.feature.items())}


def _values(feature: Any) -> list[Any]:
    kind = feature.WhichOneof("kind")
    if kind is None:
        return []
    values = list(getattr(feature, kind).value)
    return [{"b64": base64.b64encode(value).decode()} for value in values] if kind == "bytes_list" else values
