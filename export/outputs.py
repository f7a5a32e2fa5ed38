"""What a signature's function returns, as tensors by name: the live model's and the graph's in the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from tfserving.export.errors import ServableError
from tfserving.foundation.tensors import BY_NAME

# What to write instead of what is no dense tensor, by the name of its class.
INSTEAD = {
    "RaggedTensor": ".to_tensor(shape=(None, N)) makes rows of N values of it",
    "SparseTensor": "tf.sparse.to_dense(...) makes one of it",
    "TensorArray": ".stack() makes one of it",
    "KerasTensor": "it only describes one; call the model with the signature's inputs",
}
PLAIN = (bool, int, float, complex, str, bytes)


def named_outputs(returned: Any, declared: Collection[str], where: str) -> dict[str, Any]:
    """The tensors that a function `returned`, called as `declared` and in that order.

    Those of a dict, or of a dataclass, have its keys as their names. What a value below the key `more` holds is called
    `more_0` and `more_1` if it is a list or tuple, `more_key` if it is a dict. A list or tuple of as many tensors as
    are declared has them in that order, and a single tensor is the only one that is declared. What is None and isn't
    declared is left out.

    Raises ServableError, which begins with `where`, for other names than those that are declared, and for what is no
    dense tensor of a type that can be served.
    """
    if isinstance(values := _fields(returned, declared), Mapping):
        found = _by_key(values, declared, where)
    else:
        leaves = list(_in_order(values, where))
        if len(leaves) != len(declared):
            kind = f"{_kind(returned)} of {_count(leaves)}" if _is_nest(values) else _kind(returned)
            raise ServableError(
                f"{where}: its function returns {kind}, declared {_are(len(declared))} {listed(declared)}; return a "
                "dict with these names"
            )
        found = dict(zip(declared, leaves, strict=True))
    return {name: _tensor(found[name], f"{where}, output {name!r}") for name in declared}


def listed(names: Iterable[str]) -> str:
    """The names in quotes, sorted."""
    return ", ".join(map(repr, sorted(names))) or "none"


def _by_key(values: Mapping[Any, Any], declared: Collection[str], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in _flat(values, "", declared, where):
        if name in found:
            raise ServableError(f"{where}: two tensors that its function returns come to the name {name!r}; rename one")
        found[name] = value
    found = {name: value for name, value in found.items() if value is not None or name in declared}
    if set(found) != set(declared):
        raise ServableError(
            f"{where}: its function returns the outputs {listed(found)}, declared {_are(len(declared))} "
            f"{listed(declared)}"
        )
    return found


def _flat(values: Mapping[Any, Any], path: str, declared: Collection[str], where: str) -> Iterator[tuple[str, Any]]:
    """The tensors in `values` with the names that they get."""
    for key, value in values.items():
        if not isinstance(key, str):
            at = f" below {path!r}" if path else ""
            raise ServableError(f"{where}: its function returns a dict with the key {key!r}{at}; names are strings")
        name = f"{path}_{key}" if path else key
        inner = _fields(value)
        if not _is_nest(inner):
            yield name, value
            continue
        below = dict(_flat(_keyed(inner), name, declared, where))
        if name in declared:
            told = "a tensor is needed"
            if below:
                told = f"declare {' and '.join(map(repr, below))}, or return each under a name of its own"
            raise ServableError(f"{where}, output {name!r} is {_kind(value)} of {_count(below)}; {told}")
        yield from below.items()


def _in_order(value: Any, where: str) -> Iterator[Any]:
    """The tensors of nested lists and tuples."""
    inner = _fields(value)
    if isinstance(inner, Mapping):
        raise ServableError(f"{where}: its function returns a list with {_kind(value)} in it; return a dict with names")
    if not _is_nest(inner):
        yield value
        return
    for one in inner:
        yield from _in_order(one, where)


def _keyed(nest: Any) -> Mapping[Any, Any]:
    return nest if isinstance(nest, Mapping) else {str(index): value for index, value in enumerate(nest)}


def _fields(value: Any, declared: Collection[str] = ()) -> Any:
    """A dataclass as a dict, and a named tuple whose fields are those that are declared; other values as they are."""
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Mapping)) and not hasattr(value, "dtype"):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and declared and set(getattr(value, "_fields", ())) == set(declared):
        return dict(zip(value._fields, value, strict=True))  # type: ignore[attr-defined]
    return value


def _is_nest(value: Any) -> bool:
    """Whether `value` holds tensors. A list of numbers or texts is a tensor itself."""
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
        raise ServableError(f"{where} is None, a tensor is needed; don't declare it, or return one")
    instead = next((INSTEAD[kind.__name__] for kind in value.__class__.__mro__ if kind.__name__ in INSTEAD), "")
    try:
        if instead:
            raise TypeError(instead)
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError, tf.errors.OpError):
        instead = f": {instead}" if instead else ""
        raise ServableError(f"{where} is {_kind(value)}, only dense tensors can be served{instead}") from None
    if tensor.dtype.name not in BY_NAME:
        raise ServableError(f"{where} is of {tensor.dtype.name}, which no client can read; cast it")
    return tensor


def _kind(value: Any) -> str:
    """A value's class as a reader knows it, with its article."""
    import tensorflow as tf

    if value is None:
        return "None"
    classes = [kind.__name__ for kind in value.__class__.__mro__]
    name = next((name for name in classes if name in INSTEAD), classes[0])
    for kind in (dict, list, tuple):
        # TensorFlow and Keras wrap them.
        if isinstance(value, kind):
            name = "named tuple" if hasattr(value, "_fields") else kind.__name__
    if isinstance(value, tf.Tensor) and name not in INSTEAD:
        name = "tensor"
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _count(tensors: Collection[Any]) -> str:
    return f"{len(tensors)} tensor{'' if len(tensors) == 1 else 's'}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
