"""The tree of objects that a checkpoint was written from, beside the live objects that it is restored into.

https://www.tensorflow.org/guide/checkpoint#loading_mechanics
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tfserving.export.tracking import trackables

# Where TensorFlow keeps the tree.
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "VARIABLE_VALUE"
# What an optimizer tracks: Keras 3's and Keras 2's, and those of Keras 2 before TensorFlow 2.11.
OPTIMIZERS = ({"_iterations", "_learning_rate"}, {"iter", "learning_rate"})
# `tf.train.Checkpoint.save` counts its calls.
COUNTER = "save_counter"
# How many variables a sentence names.
NAMED = 6
# https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/tensorflow/layer.py
UNSEEN = (
    "Keras does not show tf.train.Checkpoint what is in a list or dict of a layer or model, so no checkpoint has it; "
    "save with model.save_weights('name.weights.h5') and load that in the builder, or train again with "
    "setattr(self, f'block{i}', layer) for each layer"
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
        """The nodes that `node` tracks, by name."""
        return {child.local_name: child.node_id for child in self.nodes[node].children}

    def key(self, node: int) -> str | None:
        """The key of the variable `node`; None when it is none."""
        return next((found.checkpoint_key for found in self.nodes[node].attributes if found.name == VALUE), None)

    def matched(self, live: Mapping[str, Any], root: int) -> dict[int, Any]:
        """The live variables that TensorFlow restores, by node, when `live` are the children of the node `root`.

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
        """Every variable below the node `root`, whose path is `name`, by its shortest path.

        What only an optimizer has is left out, and TensorFlow's own count of checkpoints.
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
        """Whether `node`, called `name`, is an optimizer."""
        return name == "optimizer" or any(names <= self.children(node).keys() for names in OPTIMIZERS)


def read_objects(reader: Any) -> SavedObjects | None:
    """The tree in a checkpoint; None when it has names only, as `tf.compat.v1.train.Saver` writes them."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    if not reader.has_tensor(GRAPH):
        return None
    return SavedObjects(TrackableObjectGraph.FromString(reader.get_tensor(GRAPH)).nodes)


def children_of(trackable: Any) -> dict[str, Any]:
    """What `trackable` tracks, as checkpoints see it."""
    import tensorflow as tf

    return dict(tf.train.TrackableView.children(trackable))


def weights_of(module: Any) -> dict[str, Any]:
    """The variables of `module` by their paths, without those of optimizers, metrics and generators of random numbers.

    Raises ServableError when `module` can't be tracked.
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
    """The first of `paths`, and how many more there are."""
    names = [*paths]
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def was_restored(variable: Any, since: int = 0) -> bool:
    """Whether a restore gave `variable` its value; `since` is the number of the first restore that counts.

    TensorFlow counts restores, and notes the last one in every object (tensorflow/python/trackable/base.py). A Keras
    variable that was never tracked has no note.
    """
    return int(getattr(variable, "_update_uid", -1)) >= since


def _is_optimizer(live: Any) -> bool:
    import keras

    return isinstance(live, keras.optimizers.Optimizer)
