"""Checkpoints with names only and no tree of objects, as `tf.compat.v1.train.Saver` writes them.

https://www.tensorflow.org/guide/migrate/migrating_checkpoints
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Names:
    """How the variables of a model match those of a checkpoint by name, and how they are restored."""

    problems: list[str]
    kept: list[str]
    unused: list[str]
    hint: str
    reader: Any
    values: Mapping[str, Any]

    def restore(self, prefix: str) -> None:  # noqa: ARG002 - the reader has it open
        """Assign every value to its variable."""
        for name, variable in self.values.items():
            variable.assign(self.reader.get_tensor(name))


def read_names(reader: Any, wanted: Mapping[str, Any]) -> Names:
    """Match the variables that are `wanted`, by their paths in the servable's checkpoint, with those of the `reader`.

    A variable is looked up by its key in the servable's `checkpoint`, and by its own name with and without the name of
    its model: `sequential/dense/kernel`, `dense/kernel`.
    """
    import tensorflow as tf

    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    values: dict[str, Any] = {}
    problems, kept = [], []
    for path, variable in wanted.items():
        name = next((name for name in _names(path, variable) if name in shapes), None)
        if name is None:
            kept.append(path)
            continue
        if name in values:
            problems.append(f"{path} and another variable have the name {name!r}")
        values[name] = variable
        saved = f"{dtypes[name].name} {tuple(shapes[name])}"
        here = f"{tf.as_dtype(variable.dtype).name} {tuple(variable.shape)}"
        if saved != here:
            problems.append(f"{path} is {saved} in the checkpoint and {here} in the model")
    unused = [name for name in sorted(shapes) if name not in values and not _is_training(name, shapes, values)]
    hint = ""
    if kept:
        names = "; ".join(" or ".join(_names(path, wanted[path])) for path in kept)
        hint = (
            f"The checkpoint has the names {', '.join(sorted(shapes))}, and these were expected: {names}. To map other "
            "names, write Servable(…, checkpoint={'name in the checkpoint': variable, …})."
        )
    return Names(problems, kept, unused, hint, reader, values)


def _names(path: str, variable: Any) -> list[str]:
    own = getattr(variable, "path", None) or variable.name.partition(":")[0]
    return list(dict.fromkeys([path, own, own.partition("/")[2] or own]))


def _is_training(name: str, shapes: Mapping[str, list[int]], values: Mapping[str, Any]) -> bool:
    """Return whether an optimizer owns it: a slot (`dense/kernel/Adam`) or a scalar (`beta1_power`, `global_step`)."""
    return not shapes[name] or name.rpartition("/")[0] in values
