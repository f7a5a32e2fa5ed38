"""The tree of objects in a checkpoint, and its match with the live objects that it is restored into.

https://www.tensorflow.org/guide/checkpoint#loading_mechanics
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tfserving.export.tracking import trackables

# The key under which TensorFlow stores the tree.
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "VARIABLE_VALUE"
# The children of an optimizer: of Keras 3 and Keras 2, and of Keras 2 before TensorFlow 2.11.
OPTIMIZERS = ({"_iterations", "_learning_rate"}, {"iter", "learning_rate"})
# `tf.train.Checkpoint.save` counts its calls.
COUNTER = "save_counter"
# The number of variables that a sentence lists.
NAMED = 6
# https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/tensorflow/layer.py
UNSEEN = (
    "tf.train.Checkpoint does not find layers in a list or dict of a Keras layer or model, so no checkpoint contains "
    "them. Save with model.save_weights('name.weights.h5') and load that file in the builder, or train again with "
    "setattr(self, f'block{i}', layer) for each layer."
)


class SavedVariable(NamedTuple):
    """A variable in a checkpoint: its path in the tree, and its node and key in the file."""

    path: str
    node: int
    key: str


@dataclass(frozen=True)
class SavedObjects:
    """The `nodes` of a checkpoint's TrackableObjectGraph. Node 0 is the `tf.train.Checkpoint`, or its root."""

    nodes: Any

    def children(self, node: int) -> dict[str, int]:
        """Return the children of `node` by name."""
        return {child.local_name: child.node_id for child in self.nodes[node].children}

    def key(self, node: int) -> str | None:
        """Return the key of the variable `node`; None when it is not a variable."""
        return next((found.checkpoint_key for found in self.nodes[node].attributes if found.name == VALUE), None)

    def matched(self, live: Mapping[str, Any], root: int) -> dict[int, Any]:
        """Return the live variables that TensorFlow restores, by node, when `live` are the children of the node `root`.

        Optimizers below `live` are left out.
        """
        objects: dict[int, Any] = {}
        waiting: deque[tuple[int, Mapping[str, Any]]] = deque([(root, live)])
        while waiting:
            number, children = waiting.popleft()
            for name, node in self.children(number).items():
                if name in children and node not in objects and node != root and not _is_optimizer(children[name]):
                    objects[node] = children[name]
                    waiting.append((node, children_of(children[name])))
        return {node: found for node, found in objects.items() if hasattr(found, "handle") and self.key(node)}

    def variables(self, root: int, name: str) -> Iterator[SavedVariable]:
        """Yield every variable below the node `root`, whose path is `name`, by its shortest path.

        Variables that only an optimizer has are left out, and TensorFlow's counter of checkpoints.
        """
        paths = {root: name}
        waiting = deque([root])
        while waiting:
            number = waiting.popleft()
            if key := self.key(number):
                yield SavedVariable(paths[number], number, key)
            for child, node in self.children(number).items():
                if node not in paths and child != COUNTER and not self.is_training(child, node):
                    paths[node] = f"{paths[number]}.{child}" if paths[number] else child
                    waiting.append(node)

    def is_training(self, name: str, node: int) -> bool:
        """Return whether `node`, called `name`, is an optimizer."""
        return name == "optimizer" or any(names <= self.children(node).keys() for names in OPTIMIZERS)


def read_objects(reader: Any) -> SavedObjects | None:
    """Return the tree in a checkpoint; None when it has only names, as `tf.compat.v1.train.Saver` writes them."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    if not reader.has_tensor(GRAPH):
        return None
    return SavedObjects(TrackableObjectGraph.FromString(reader.get_tensor(GRAPH)).nodes)


def children_of(trackable: Any) -> dict[str, Any]:
    """Return the children that `trackable` tracks, as in checkpoints."""
    import tensorflow as tf

    return dict(tf.train.TrackableView.children(trackable))


def weights_of(module: Any) -> dict[str, Any]:
    """Return the variables of `module` by path, without those of optimizers, metrics and random number generators.

    Raises ServableError when TensorFlow can't track `module`.
    """
    import keras

    found = trackables(module)
    others: set[int] = set()
    for trackable in found.values():
        if isinstance(trackable, (keras.optimizers.Optimizer, keras.metrics.Metric)):
            others |= {id(variable.handle) for variable in trackable.variables}
        elif isinstance(trackable, keras.random.SeedGenerator):
            others.add(id(trackable.state.handle))
    return {path: one for path, one in found.items() if hasattr(one, "handle") and id(one.handle) not in others}


def few(paths: Iterable[str]) -> str:
    """Return the first of `paths`, and the number of the others."""
    names = [*paths]
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def was_restored(variable: Any, since: int = 0) -> bool:
    """Return whether a restore assigned a value to `variable`; `since` is the number of the first restore that counts.

    TensorFlow numbers restores, and stores the last number in every object (tensorflow/python/trackable/base.py). A
    Keras variable that was never tracked has none.
    """
    return int(getattr(variable, "_update_uid", -1)) >= since


def _is_optimizer(live: Any) -> bool:
    import keras

    return isinstance(live, keras.optimizers.Optimizer)
