"""What Keras 2 calls the parts of a model in a checkpoint, found in a model of Keras 3.

Keras 2 writes attributes as they are called (`hidden.kernel`, `blocks.0.kernel`), Keras 3 those that hold them
(`hidden._kernel`), and nothing of lists. Layers of functional and sequential models are numbered by Keras 2
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
    """The live variables that Keras 2 wrote under their names into the tree `objects`, by node.

    `live` are the children of node 0. Those that are `matched` already are left out.
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
    """What `owner` holds under the name that Keras 2 gives it; None when that is nothing with variables."""
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
            # Properties of Keras raise what they like.
            child = getattr(owner, name)
    if hasattr(child, "handle") or isinstance(child, (keras.layers.Layer, list, tuple, dict)):
        return child
    return None
