"""The size limit of a graph: its constants are in saved_model.pb, and a protobuf message has at most 2 GB.

https://protobuf.dev/programming-guides/proto-limits/#total
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfserving.export.errors import ServableError

LARGEST = (1 << 31) - 1


def check_constants(functions: Mapping[str, Any]) -> None:
    """Raise ServableError when the constants of the traced `functions` don't fit into saved_model.pb.

    TensorFlow 2.21 would write a SavedModel without them, or one that can't be read.
    """
    sizes = {name: _constants(function) for name, function in functions.items()}
    if sum(sizes.values()) > LARGEST:
        found = ", ".join(f"{name!r} {_gigabytes(size)}" for name, size in sizes.items() if size)
        raise ServableError(
            f"the signatures' graphs have constants of {_gigabytes(sum(sizes.values()))} ({found}), but saved_model.pb "
            f"can have at most {_gigabytes(LARGEST)}. Keep such arrays in a tf.Variable that the module tracks."
        )


def not_to_be_frozen(functions: Mapping[str, Any]) -> str:
    """Return why the variables of the traced `functions` can't become constants; '' when they can.

    Every signature has its own copy of the constants that it uses.
    """
    size = sum(_bytes(variable) for function in functions.values() for variable in function.graph.variables) + sum(
        map(_constants, functions.values())
    )
    if size <= LARGEST:
        return ""
    return (
        f"as constants, the weights of {len(functions)} signature{'s' * (len(functions) > 1)} have {_gigabytes(size)}, "
        f"but saved_model.pb can have at most {_gigabytes(LARGEST)}"
    )


def _constants(function: Any) -> int:
    """Return the bytes of a traced function's constants: those in its graph, and captured arrays."""
    inside = [operation.outputs[0] for operation in function.graph.get_operations() if operation.type == "Const"]
    outside = [captured for captured in function.captured_inputs if captured.dtype.name != "resource"]
    return sum(map(_bytes, (*inside, *outside)))


def _bytes(tensor: Any) -> int:
    """Return the bytes of a tensor or variable; 0 when its shape is unknown, and for strings."""
    return int((tensor.shape.num_elements() or 0) * tensor.dtype.size)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
