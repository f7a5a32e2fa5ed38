"""Turns the value that a signature's function returns into tensors by name, for the live model and for the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from tfserving.export.errors import ServableError
from tfserving.foundation.tensors import BY_NAME

# What to write instead of a value that is not a dense tensor, by the name of its class.
INSTEAD = {
    "RaggedTensor": "Convert it with .to_tensor(shape=(None, N)), N values in each row",
    "SparseTensor": "Convert it with tf.sparse.to_dense(...)",
    "TensorArray": "Convert it with .stack()",
    "KerasTensor": "It is symbolic: call the model with the signature's inputs",
}
PLAIN = (bool, int, float, complex, str, bytes)


def named_outputs(returned: Any, declared: Collection[str], where: str) -> dict[str, Any]:
    """Return the tensors that a function `returned`, by the names that are `declared` and in that order.

    The keys of a dict, and the fields of a dataclass, are the names. Below a key `more`, the items of a list or tuple
    are `more_0` and `more_1`, those of a dict `more_key`. A list or tuple must have as many tensors as are declared, in
    that order. A single tensor is the only declared one. A value that is None and not declared is left out.

    Raises ServableError, which begins with `where`, for names other than the declared ones, and for a value that is not
    a dense tensor of a dtype that can be served.
    """
    if isinstance(values := _fields(returned, declared), Mapping):
        found = _by_key(values, declared, where)
    else:
        leaves = list(_in_order(values, where))
        if len(leaves) != len(declared):
            kind = f"{_kind(returned)} of {_count(leaves)}" if _is_nest(values) else _kind(returned)
            raise ServableError(
                f"{where}: its function returns {kind}, but the declared outputs are {listed(declared)}. Return a dict "
                "with these names."
            )
        found = dict(zip(declared, leaves, strict=True))
    return {name: _tensor(found[name], f"{where}, output {name!r}") for name in declared}


def listed(names: Iterable[str]) -> str:
    """Return the names in quotes, sorted."""
    return ", ".join(map(repr, sorted(names))) or "none"


def _by_key(values: Mapping[Any, Any], declared: Collection[str], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in _flat(values, "", declared, where):
        if name in found:
            raise ServableError(f"{where}: its function returns two tensors with the name {name!r}. Rename one.")
        found[name] = value
    found = {name: value for name, value in found.items() if value is not None or name in declared}
    if set(found) != set(declared):
        raise ServableError(
            f"{where}: its function returns the outputs {listed(found)}, but it declares {listed(declared)}"
        )
    return found


def _flat(values: Mapping[Any, Any], path: str, declared: Collection[str], where: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors in `values` with their names."""
    for key, value in values.items():
        if not isinstance(key, str):
            at = f" below {path!r}" if path else ""
            raise ServableError(f"{where}: its function returns a dict with the key {key!r}{at}; keys must be strings")
        name = f"{path}_{key}" if path else key
        inner = _fields(value)
        if not _is_nest(inner):
            yield name, value
            continue
        below = dict(_flat(_keyed(inner), name, declared, where))
        if name in declared:
            remedy = ""
            if below:
                remedy = f". Declare {' and '.join(map(repr, below))}, or return each under a name of its own."
            raise ServableError(
                f"{where}, output {name!r}: expected a tensor, got {_kind(value)} of {_count(below)}{remedy}"
            )
        yield from below.items()


def _in_order(value: Any, where: str) -> Iterator[Any]:
    """Yield the tensors of nested lists and tuples."""
    inner = _fields(value)
    if isinstance(inner, Mapping):
        raise ServableError(f"{where}: its function returns a list with {_kind(value)} in it. Return a dict instead.")
    if not _is_nest(inner):
        yield value
        return
    for one in inner:
        yield from _in_order(one, where)


def _keyed(nest: Any) -> Mapping[Any, Any]:
    return nest if isinstance(nest, Mapping) else {str(index): value for index, value in enumerate(nest)}


def _fields(value: Any, declared: Collection[str] = ()) -> Any:
    """Return a dataclass, or a named tuple with the declared fields, as a dict; any other value as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Mapping)) and not hasattr(value, "dtype"):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and declared and set(getattr(value, "_fields", ())) == set(declared):
        return dict(zip(value._fields, value, strict=True))  # type: ignore[attr-defined]
    return value


def _is_nest(value: Any) -> bool:
    """Return whether `value` contains tensors. A list of numbers or strings is a tensor itself."""
    if isinstance(value, Mapping):
        return True
    return isinstance(value, (list, tuple)) and not _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _tensor(value: Any, where: str) -> Any:
    import tensorflow as tf

    if value is None:
        raise ServableError(f"{where}: expected a tensor, got None. Return a tensor, or don't declare the output.")
    instead = next((INSTEAD[kind.__name__] for kind in value.__class__.__mro__ if kind.__name__ in INSTEAD), "")
    try:
        if instead:
            raise TypeError(instead)
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError, tf.errors.OpError):
        instead = f". {instead}." if instead else ""
        raise ServableError(f"{where}: expected a dense tensor, got {_kind(value)}{instead}") from None
    if tensor.dtype.name not in BY_NAME:
        raise ServableError(f"{where} has dtype {tensor.dtype.name}, which no client supports. Cast it.")
    return tensor


def _kind(value: Any) -> str:
    """Return the common name of a value's class, with its article."""
    import tensorflow as tf

    if value is None:
        return "None"
    classes = [kind.__name__ for kind in value.__class__.__mro__]
    name = next((name for name in classes if name in INSTEAD), classes[0])
    for kind in (dict, list, tuple):
        # TensorFlow and Keras use subclasses.
        if isinstance(value, kind):
            name = "named tuple" if hasattr(value, "_fields") else kind.__name__
    if isinstance(value, tf.Tensor) and name not in INSTEAD:
        name = "tensor"
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _count(tensors: Collection[Any]) -> str:
    return f"{len(tensors)} tensor{'' if len(tensors) == 1 else 's'}"
