"""What a caller hands in, made into the arrays of a signature's inputs, and compared with what the signature wants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from tfserving.clients.answers import Signature, TensorInfo
from tfserving.foundation.tensors import BY_NAME, STRING, Array, DType, dtype_of, from_numbers

# An array, a number, bytes, a str, nested lists of them, or by input name a mapping of such. numpy's own ArrayLike is
# narrower than what a caller may hand in (lists of bytes, other libraries' arrays).
Inputs: TypeAlias = Any

# Which kinds of numbers are also numbers of another kind: no float is an integer. bfloat16 is of numpy's kind V.
_RANKS = {"b": 0, "i": 0, "u": 0, "f": 1, "V": 1, "c": 2}


def needs_signature(inputs: Inputs) -> bool:
    """Whether the signature must be known to make arrays of `inputs`.

    An array has an element type, and goes out as it is. Python's lists and numbers take the type that the signature
    wants, and a single value the name of its only input.
    """
    return not isinstance(inputs, Mapping) or not all(hasattr(value, "__array__") for value in inputs.values())


def to_arrays(inputs: Inputs, name: str = "", signature: Signature | None = None) -> dict[str, Array]:
    """The array of each input of signature `signature`, called `name`; it may be None unless `needs_signature` says no.

    Raises ValueError naming the input: a single value for several inputs, ragged lists, numbers that the wanted type
    can't hold, an element type that tensors don't have.
    """
    if isinstance(inputs, Mapping):
        named = dict(inputs)
    else:
        wanted = list(signature.inputs) if signature else []
        if len(wanted) != 1:
            raise ValueError(
                f"signature {name!r} has {len(wanted)} inputs ({', '.join(wanted) or 'none'}): give them by name, "
                "as a mapping"
            )
        named = {wanted[0]: inputs}
    arrays: dict[str, Array] = {}
    for key, value in named.items():
        if not isinstance(key, str):
            raise ValueError(f"the name of an input is a str, not {type(key).__name__} {key!r}")
        info = signature.inputs.get(key) if signature else None
        try:
            arrays[key] = _array(value, info)
        except (TypeError, ValueError) as error:
            raise ValueError(f"inputs[{key!r}]: {error}") from None
    return arrays


def mismatches(arrays: Mapping[str, Array], name: str, signature: Signature, *, shapes: bool = True) -> list[str]:
    """What in `arrays` is not as signature `signature`, called `name`, wants it: a line for each misfit.

    Without `shapes` only names and element types are compared.
    """
    found = []
    for key, array in arrays.items():
        info = signature.inputs.get(key)
        if info is None:
            wants = ", ".join(f"{other!r}: {it}" for other, it in signature.inputs.items()) or "no inputs"
            found.append(f"inputs[{key!r}] is not an input, signature {name!r} wants {wants}")
        elif dtype_of(array).name != info.dtype or (shapes and not info.fits(array.shape)):
            has = f"dtype {dtype_of(array).name} and shape {array.shape}"
            found.append(f"inputs[{key!r}] has {has}, signature {name!r} wants {info}")
    found += [
        f"inputs[{key!r}] is missing, signature {name!r} wants {info}"
        for key, info in signature.inputs.items()
        if key not in arrays and key not in signature.optional
    ]
    return found


def _array(value: object, info: TensorInfo | None) -> Array:
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if dtype_of(array) is STRING:
            _check_strings(array)
        return array
    wanted = BY_NAME.get(info.dtype) if info else None
    if wanted is STRING or (wanted is None and _holds_strings(value)):
        # Not numpy's own string arrays: they drop NUL bytes at the end.
        array = np.array(value, np.object_)
        _check_strings(array)
        return array
    array = _regular(value, wanted)
    return array if wanted is None else _cast(array, wanted.numpy, wanted.name)


def _regular(value: object, wanted: DType | None) -> Array:
    try:
        array = from_numbers(value, wanted)
    except ValueError:
        raise ValueError("its lists are not of one length, an array's are") from None
    dtype_of(array)
    if array.dtype.kind == "O":
        raise ValueError("its values are not all numbers, booleans or strings")
    return array


def _cast(array: Array, wanted: np.dtype[Any], name: str) -> Array:
    """`array`, made of Python's numbers, in the type the signature wants, if that holds every value."""
    if not array.size:
        return array.astype(wanted)
    source = array.dtype.kind
    if (source == "b") != (wanted.kind == "b") or _RANKS.get(source, 3) > _RANKS[wanted.kind]:
        raise ValueError(f"{array.ravel()[0].item()!r} is no {name}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(wanted)
    lost = cast != array if wanted.kind in "iu" else np.isfinite(array) & ~np.isfinite(cast)
    if lost.any():
        raise ValueError(f"{array[lost].ravel()[0].item()!r} does not fit {name}")
    return cast


def _holds_strings(value: object) -> bool:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (str, bytes))


def _check_strings(array: Array) -> None:
    for value in array.ravel().tolist():
        if isinstance(value, (list, tuple)):
            raise ValueError("its lists are not of one length, an array's are")
        if not isinstance(value, (str, bytes)):
            raise ValueError(f"a string tensor holds bytes or str, not {type(value).__name__} {value!r}")
