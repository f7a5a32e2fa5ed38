"""Conversion of a caller's inputs to the arrays of a signature, and the check against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from tfserving.clients.results import Signature, TensorInfo
from tfserving.foundation.tensors import BY_NAME, STRING, Array, DType, dtype_of, from_numbers

# An array, a number, bytes, a str, nested lists of these, or a mapping of input names to them. numpy's ArrayLike is
# narrower: it lacks lists of bytes and other libraries' arrays.
Inputs: TypeAlias = Any

# A kind converts to kinds of the same or a higher rank: an integer to a float, no float to an integer. bfloat16 is V.
_RANKS = {"b": 0, "i": 0, "u": 0, "f": 1, "V": 1, "c": 2}


def needs_signature(inputs: Inputs) -> bool:
    """Return whether the conversion of `inputs` to arrays needs the signature.

    An array has a dtype and is sent unchanged. Python lists and numbers get the dtype in the signature, and a single
    value gets the name of the signature's only input.
    """
    return not isinstance(inputs, Mapping) or not all(hasattr(value, "__array__") for value in inputs.values())


def to_arrays(inputs: Inputs, name: str = "", signature: Signature | None = None) -> dict[str, Array]:
    """Return the array of each input of signature `signature`, called `name`.

    `signature` may be None where `needs_signature` is false. Raises ValueError that names the input, for a single value
    for several inputs, ragged lists, numbers that the dtype can't hold, and dtypes that tensors don't have.
    """
    if isinstance(inputs, Mapping):
        named = dict(inputs)
    else:
        wanted = list(signature.inputs) if signature else []
        if len(wanted) != 1:
            raise ValueError(
                f"signature {name!r} has {len(wanted)} inputs ({', '.join(wanted) or 'none'}); give them as a mapping "
                "of names to values"
            )
        named = {wanted[0]: inputs}
    arrays: dict[str, Array] = {}
    for key, value in named.items():
        if not isinstance(key, str):
            raise ValueError(f"the name of an input must be a str, got {type(key).__name__} {key!r}")
        info = signature.inputs.get(key) if signature else None
        try:
            arrays[key] = _array(value, info)
        except (TypeError, ValueError) as error:
            raise ValueError(f"inputs[{key!r}]: {error}") from None
    return arrays


def mismatches(arrays: Mapping[str, Array], name: str, signature: Signature, *, shapes: bool = True) -> list[str]:
    """Return a line for each difference between `arrays` and signature `signature`, called `name`.

    Without `shapes` only names and dtypes are compared.
    """
    found = []
    for key, array in arrays.items():
        info = signature.inputs.get(key)
        if info is None:
            known = ", ".join(f"{other!r}: {it}" for other, it in signature.inputs.items()) or "no inputs"
            found.append(f"inputs[{key!r}] is not an input of signature {name!r}, which has {known}")
        elif dtype_of(array).name != info.dtype or (shapes and not info.fits(array.shape)):
            got = f"{dtype_of(array).name} {array.shape}"
            found.append(f"inputs[{key!r}]: got {got}, signature {name!r} expects {info}")
    found += [
        f"inputs[{key!r}] is missing, signature {name!r} expects {info}"
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
        # Not numpy's string dtypes: they drop NUL bytes at the end.
        array = np.array(value, np.object_)
        _check_strings(array)
        return array
    array = _regular(value, wanted)
    return array if wanted is None else _cast(array, wanted.numpy, wanted.name)


def _regular(value: object, wanted: DType | None) -> Array:
    try:
        array = from_numbers(value, wanted)
    except ValueError:
        raise ValueError("its lists have different lengths") from None
    dtype_of(array)
    if array.dtype.kind == "O":
        raise ValueError("its values are not all numbers, booleans or strings")
    return array


def _cast(array: Array, wanted: np.dtype[Any], name: str) -> Array:
    """Return `array`, which is of Python numbers, in the signature's dtype if that can hold every value."""
    if not array.size:
        return array.astype(wanted)
    source = array.dtype.kind
    if (source == "b") != (wanted.kind == "b") or _RANKS.get(source, 3) > _RANKS[wanted.kind]:
        raise ValueError(f"{array.ravel()[0].item()!r} is not of dtype {name}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(wanted)
    lost = cast != array if wanted.kind in "iu" else np.isfinite(array) & ~np.isfinite(cast)
    if lost.any():
        raise ValueError(f"{array[lost].ravel()[0].item()!r} is out of the range of {name}")
    return cast


def _holds_strings(value: object) -> bool:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (str, bytes))


def _check_strings(array: Array) -> None:
    for value in array.ravel().tolist():
        if isinstance(value, (list, tuple)):
            raise ValueError("its lists have different lengths")
        if not isinstance(value, (str, bytes)):
            raise ValueError(f"a string tensor holds bytes or str, got {type(value).__name__} {value!r}")
