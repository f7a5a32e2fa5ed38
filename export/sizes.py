"""How much room a graph has: constants are in saved_model.pb, and a protobuf message has 2 GB at most.

https://protobuf.dev/programming-guides/proto-limits/#total
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfserving.export.errors import ServableError

LARGEST = (1 << 31) - 1


def check_constants(functions: Mapping[str, Any]) -> None:
    """Raises ServableError when the constants of the traced `functions` don't fit into saved_model.pb.

    TensorFlow 2.21 writes a SavedModel without them then, or one that can't be read.
    """
    sizes = {name: _constants(function) for name, function in functions.items()}
    if sum(sizes.values()) > LARGEST:
        found = ", ".join(f"{name!r} {_gigabytes(size)}" for name, size in sizes.items() if size)
        raise ServableError(
            f"the signatures' graphs have constants of {_gigabytes(sum(sizes.values()))} ({found}), and saved_model.pb "
            f"can have {_gigabytes(LARGEST)} at most; keep such arrays in a tf.Variable that the module tracks"
        )


def not_to_be_frozen(functions: Mapping[str, Any]) -> str:
    """Why the variables of the traced `functions` can't become constants; '' when they can.

    Every signature gets the constants that it uses, also those that another one has.
    """
    size = sum(_bytes(variable) for function in functions.values() for variable in function.graph.variables) + sum(
        map(_constants, functions.values())
    )
    if size <= LARGEST:
        return ""
    return (
        f"as constants, the weights of {len(functions)} signature{'s' * (len(functions) > 1)} have {_gigabytes(size)}, "
        f"and saved_model.pb can have {_gigabytes(LARGEST)} at most"
    )


def _constants(function: Any) -> int:
    """The bytes of a traced function's constants: those in its graph, and arrays from outside of it."""
    inside = [operation.outputs[0] for operation in function.graph.get_operations() if operation.type == "Const"]
    outside = [captured for captured in function.captured_inputs if captured.dtype.name != "resource"]
    return sum(map(_bytes, (*inside, *outside)))


def _bytes(tensor: Any) -> int:
    """How large a tensor or variable is; 0 when its shape doesn't say it. A string has no size either."""
    return int((tensor.shape.num_elements() or 0) * tensor.dtype.size)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
