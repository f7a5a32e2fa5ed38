"""Converts the JSON objects of a REST classify or regress request to tf.Examples.

https://www.tensorflow.org/tfx/serving/api_rest#classify_and_regress_api
"""

from __future__ import annotations

from typing import Any

from tfserving.foundation.messages import Example
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.rest.json_parser import members_of
from tfserving.serving.embedded.rest.json_tensor import is_base64, read_base64
from tfserving.serving.embedded.rest.json_text import show

EXAMPLES, CONTEXT = "examples", "context"
LARGEST_INTEGER = 2**63


def read_examples(document: dict[Any, Any]) -> list[bytes]:
    """Returns the serialized tf.Examples of a request, with its context. Raises RequestError INVALID_ARGUMENT."""
    where = f"JSON Value: {show(document)}"
    if EXAMPLES not in document:
        raise _invalid(f"{where} When method is classify, key '{EXAMPLES}' is expected and was not found")
    examples = document[EXAMPLES]
    if not isinstance(examples, list):
        raise _invalid(f"{where} Expecting '{EXAMPLES}' value to be an list/array")
    if not examples:
        raise _invalid(f"{where} '{EXAMPLES}' value is an empty array")
    # Protobuf merges concatenated messages; the later features win.
    context = _serialized(document[CONTEXT]) if CONTEXT in document else b""
    return [context + _serialized(example) for example in examples]


def _serialized(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise _invalid(f"Example must be JSON object but got JSON {_type_name(value)}")
    example = Example()
    for name, feature in members_of(value):
        _fill(example.features.feature, name, feature)
    return example.SerializeToString()  # type: ignore[no-any-return]


def _fill(features: Any, name: Any, value: Any) -> None:
    """Adds the feature `name`. All elements must be of the kind of the first one."""
    if isinstance(name, bytes):
        raise _invalid(f"Feature: {name!r} has a name that is not UTF-8")
    feature = features[name]
    # Of two features with the same name the second counts.
    feature.Clear()
    kind = ""
    for element in value if isinstance(value, list) else [value]:
        found, plain = _element(name, element)
        kind = kind or found
        if found != kind:
            raise _invalid(f"Unexpected element type in feature: {name} expecting type: {kind}")
        getattr(feature, f"{kind}_list").value.append(plain)


def _element(name: str, value: Any) -> tuple[str, Any]:
    """Returns the kind of a feature's element, as TensorFlow Serving derives it from JSON, and its value."""
    if isinstance(value, bool):
        return "int64", int(value)
    if isinstance(value, int):
        if value >= LARGEST_INTEGER:
            raise _invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        return "int64", value
    if isinstance(value, float):
        return "float", value
    if isinstance(value, (str, bytes)):
        return "bytes", value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    if is_base64(value):
        return "bytes", read_base64(value)
    raise _invalid(f"Feature: {name} has element with unexpected JSON type: {_type_name(value)}")


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "True" if value else "False"
    kinds = {type(None): "Null", dict: "Object", list: "Array", str: "String", bytes: "String"}
    return kinds.get(type(value), "Number")


def _invalid(text: str) -> RequestError:
    return RequestError(Code.INVALID_ARGUMENT, text)
