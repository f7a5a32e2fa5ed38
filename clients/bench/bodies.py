"""The bodies of a load's requests, prepared once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from tfserving.clients import rest_json, wire
from tfserving.clients.address import Address
from tfserving.clients.errors import Call
from tfserving.clients.results import Signature, TensorInfo
from tfserving.foundation.tensors import BY_NAME, STRING, Array

# The bodies are kept in the memory of each process that sends them.
MOST_BYTES = 512 * 1024 * 1024


class BodiesError(Exception):
    """No requests can be made; the text is the reason."""


def made_up(name: str, signature: Signature) -> dict[str, Array]:
    """Return inputs of one row for the signature called `name`: random numbers from 0 to 1, ones for integers.

    Raises BodiesError for string inputs, and for inputs of an unknown rank.
    """
    randomly = np.random.default_rng(0)

    def array(key: str, info: TensorInfo) -> Array:
        dtype = BY_NAME.get(info.dtype)
        if dtype is None or dtype is STRING or info.shape is None:
            raise BodiesError(
                f"values for input {key!r} of signature {name!r}, {info}, can't be generated; give --input or "
                "--requests"
            )
        shape = [size or 1 for size in info.shape]
        _check_size(f"input {key!r} of signature {name!r}, {info},", prod(shape) * dtype.numpy.itemsize)
        if dtype.numpy.kind in "iub":
            return np.ones(shape, dtype.numpy)
        return randomly.random(shape).astype(dtype.numpy)

    return {key: array(key, info) for key, info in signature.inputs.items() if key not in signature.optional}


def of_rows(inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """Return `inputs` with so many rows, repeated or cut.

    Raises BodiesError when the inputs don't have the same number of rows.
    """
    sizes = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise BodiesError("the inputs don't have the same number of rows, so they can't be batched; leave out --batch")
    _check_size(f"a request of {rows} rows", sum(array[:1].nbytes * rows for array in inputs.values()))
    return {name: np.resize(array, (rows, *array.shape[1:])) for name, array in inputs.items()}


def _check_size(what: str, size: int) -> None:
    if size > MOST_BYTES:
        raise BodiesError(f"{what} has {size} bytes, the limit is {MOST_BYTES}")


def bodies_of(
    address: Address, call: Call, requests: Sequence[Mapping[str, Array]], batch: int | None = None
) -> tuple[bytes, ...]:
    """Return the bodies of `requests` for the protocol of `address`, each with `batch` rows if that is given.

    Raises BodiesError for inputs that the protocol can't carry.
    """
    bodies = []
    for request in requests:
        inputs = dict(request) if batch is None else of_rows(request, batch)
        try:
            if address.protocol == "grpc":
                bodies.append(b"".join(wire.predict_request(call, inputs)))
            else:
                bodies.append(rest_json.predict_request(call.signature or "", inputs))
        except TypeError as error:
            raise BodiesError(str(error)) from None
    return tuple(bodies)
