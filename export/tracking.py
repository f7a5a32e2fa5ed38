"""The variables, tables and files that a model tracks, by their paths in the model.

TensorFlow tracks them differently, and `tf.train.Checkpoint` writes only what TensorFlow tracks. It does not find
layers in lists, dicts and sets of Keras layers:
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/tensorflow/layer.py
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from tfserving.export.errors import ServableError

COLLECTIONS = (list, tuple, dict, set, frozenset)
# Attributes in which Keras and TensorFlow store objects a second time that have attributes of their own.
STORES = (
    *("_layers", "_operations", "_functional", "_metrics", "_seed_generators"),
    *("_variables", "_trainable_variables", "_non_trainable_variables"),
)
# The attributes that a model has for its training. They also refer to the model's variables.
TRAINING = (
    "optimizer",
    "_optimizer",
    "_loss_tracker",
    "_compile_loss",
    "_compile_metrics",
    "_compiled_trainable_state",
)
# The order in which children are visited. The path of a later one counts only if no earlier path leads to an object.
OWN, STORED, TRAINED = range(3)


def trackables(module: Any) -> dict[str, Any]:
    """Return every object that `module` tracks, itself included, by its shortest path in the model.

    `module` is a Keras object, a `tf.Module` or another object that TensorFlow can save, or a list, tuple, dict or set
    of them. A path consists of attributes, the names of a functional model's layers, indices and keys:
    `blocks.0.kernel`, `heads.score.bias`. Objects that only training uses come last. Raises ServableError for any other
    module.
    """
    import tensorflow as tf

    if not isinstance(module, (tf.__internal__.tracking.Trackable, *_keras_types(), *COLLECTIONS)):
        raise ServableError(
            f"module: got a {type(module).__name__}, expected a Keras model or a tf.Module, or a list or dict of them"
        )
    waiting: tuple[deque[tuple[str, Any]], ...] = (deque([("", module)]), deque(), deque())
    found: dict[str, Any] = {}
    seen: set[int] = set()
    while queue := next(filter(None, waiting), None):
        path, trackable = queue.popleft()
        if id(trackable) in seen:
            continue
        seen.add(id(trackable))
        while path in found:
            # A dict may have the keys 1 and "1".
            path += "_"
        found[path] = trackable
        for name, child, when in _children(trackable):
            waiting[max(when, waiting.index(queue))].append((f"{path}.{name}" if path else name, child))
    return found


def variables_of(module: Any) -> dict[str, Any]:
    """Return the variables among the `trackables` of `module`, TensorFlow's and Keras's, by path (`encoder.kernel`).

    Raises ServableError as `trackables` does.
    """
    return {path: found for path, found in trackables(module).items() if hasattr(found, "handle")}


def not_checkpointed(module: Any) -> dict[str, Any]:
    """Return the variables of `module`, by path, that `tf.train.Checkpoint` neither writes nor restores.

    Those of metrics and of random number generators are left out: served models don't need them. Raises ServableError
    as `trackables` does, and when `tf.train.Checkpoint` can't write `module`.
    """
    import keras

    found = trackables(module)
    passed = {id(trackable) for trackable in checkpointed(module)}
    for trackable in found.values():
        if isinstance(trackable, keras.metrics.Metric):
            passed |= {id(variable) for variable in trackable.variables}
        elif isinstance(trackable, keras.random.SeedGenerator):
            passed.add(id(trackable.state))
    return {path: one for path, one in found.items() if hasattr(one, "handle") and id(one) not in passed}


def checkpointed(module: Any) -> list[Any]:
    """Return every object that `tf.train.Checkpoint` finds in `module`.

    Raises ServableError when TensorFlow can't write `module`.
    """
    import tensorflow as tf

    try:
        checkpoint = tf.train.Checkpoint(module=module)
        return tf.train.TrackableView(checkpoint).descendants()  # type: ignore[no-any-return]
    except ValueError as error:
        raise ServableError(f"tf.train.Checkpoint can't write a {type(module).__name__}: {error}") from None


def _children(trackable: Any) -> Iterator[tuple[str, Any, int]]:
    """Yield the children of `trackable`: the name, the child, and when it is visited."""
    import keras
    import tensorflow as tf

    if hasattr(trackable, "handle"):
        return
    if isinstance(trackable, COLLECTIONS):
        for name, child in _items(trackable):
            if _is_tracked(child):
                yield name, child, OWN
        return
    children: dict[str, Any] = {}
    if isinstance(trackable, (tf.Module, *_keras_types())):
        # TensorFlow's own bookkeeping is called _self_….
        held = {name: value for name, value in vars(trackable).items() if not name.startswith("_self_")}
        children = {_public_name(trackable, name, value): value for name, value in held.items() if _is_tracked(value)}
    # The layers of a functional model are children by name. A subclassed model has attributes.
    if isinstance(trackable, keras.Sequential) or (isinstance(trackable, keras.Model) and "_operations" in children):
        children |= {layer.name: layer for layer in trackable.layers if layer.name not in children}
    if isinstance(trackable, tf.__internal__.tracking.Trackable):
        tracked = tf.train.TrackableView.children(trackable)
        children |= {name: child for name, child in tracked.items() if name not in children and _is_tracked(child)}
    for name in sorted(children, key=lambda name: (name in STORES, name.startswith("_"))):
        yield name, children[name], _when(name, children[name])


def _items(collection: Any) -> Iterator[tuple[str, Any]]:
    """Yield the elements of a collection by key or index."""
    if isinstance(collection, dict):
        yield from ((key if isinstance(key, str) else repr(key), value) for key, value in collection.items())
    elif fields := getattr(collection, "_fields", ()):
        yield from zip(fields, collection, strict=True)
    else:
        # The order of a set differs between processes.
        ordered = sorted(collection, key=_name_of) if isinstance(collection, (set, frozenset)) else collection
        yield from ((str(index), value) for index, value in enumerate(ordered))


def _name_of(value: Any) -> str:
    return str(getattr(value, "name", ""))


def _is_tracked(value: Any) -> bool:
    """Return whether `value` can contain variables, tables or files."""
    import tensorflow as tf

    # The functions of a model are traced again.
    return isinstance(value, (tf.__internal__.tracking.Trackable, *_keras_types(), *COLLECTIONS)) and not isinstance(
        value, tf.types.experimental.Callable
    )


def _when(name: str, child: Any) -> int:
    import keras

    if name in TRAINING or isinstance(child, (keras.optimizers.Optimizer, keras.metrics.Metric)):
        return TRAINED
    return STORED if name in STORES else OWN


def _public_name(owner: Any, name: str, child: Any) -> str:
    """Return `kernel` for the attribute `_kernel` of a layer with a property of that name."""
    public = name.lstrip("_")
    if public != name and isinstance(getattr(type(owner), public, None), property):
        # Keras's properties can raise any error before a layer is built.
        with contextlib.suppress(Exception):
            if getattr(owner, public) is child:
                return public
    return name


def _keras_types() -> tuple[type, ...]:
    import keras

    return (
        keras.layers.Layer,
        keras.Variable,
        keras.metrics.Metric,
        keras.optimizers.Optimizer,
        keras.random.SeedGenerator,
    )
