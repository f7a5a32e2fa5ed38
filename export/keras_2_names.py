"""Finds the parts of a Keras 3 model by the names that Keras 2 writes in checkpoints.

Keras 2 writes the public names of attributes (`hidden.kernel`, `blocks.0.kernel`). Keras 3 writes the private ones that
hold the values (`hidden._kernel`), and skips lists. Keras 2 numbers the layers of functional and sequential models
(https://github.com/keras-team/tf-keras/blob/v2.19.0/tf_keras/engine/functional.py, _layer_checkpoint_dependencies).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any

from tfserving.export.saved_objects import SavedObjects

NUMBERED = "layer_with_weights-"


def matched_by_name(objects: SavedObjects, live: Mapping[str, Any], matched: Mapping[int, Any]) -> dict[int, Any]:
    """Return the live variables that Keras 2 wrote under their public names into the tree `objects`, by node.

    `live` are the children of node 0. Variables that are `matched` already are left out.
    """
    found: dict[int, Any] = {}
    taken = {id(variable.handle) for variable in matched.values()}
    seen = {0}
    waiting: deque[tuple[int, Any]] = deque([(0, live)])
    while waiting:
        number, owner = waiting.popleft()
        for name, node in objects.children(number).items():
            child = None if node in seen or objects.is_training(name, node) else _child(owner, name)
            if child is None:
                continue
            seen.add(node)
            if not hasattr(child, "handle"):
                waiting.append((node, child))
            elif objects.key(node) and node not in matched and id(child.handle) not in taken:
                taken.add(id(child.handle))
                found[node] = child
    return found


def _child(owner: Any, name: str) -> Any:
    """Return the part of `owner` with the name that Keras 2 gives it; None when it has no variables."""
    import keras

    child: Any = None
    with contextlib.suppress(Exception):
        if isinstance(owner, Mapping):
            child = owner[name]
        elif isinstance(owner, (list, tuple)):
            child = owner[int(name)]
        elif name.startswith(NUMBERED):
            child = [layer for layer in owner.layers if layer.weights][int(name.removeprefix(NUMBERED))]
        else:
            # Properties of Keras raise errors of any kind.
            child = getattr(owner, name)
    if hasattr(child, "handle") or isinstance(child, (keras.layers.Layer, list, tuple, dict)):
        return child
    return None
