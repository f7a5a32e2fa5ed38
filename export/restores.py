"""Records the restores that a builder does itself, and finds those whose values did not reach the served variables.

`tf.train.Checkpoint.restore` assigns values to existing variables, and to others when they are created
(https://www.tensorflow.org/guide/checkpoint#delayed_restorations). Keras 3 creates some of its variables in a way that
loses the value, without an error. Variables that the checkpoint lacks keep their values, also without an error.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tfserving.export.errors import CheckpointError
from tfserving.export.keras_2_names import matched_by_name
from tfserving.export.saved_objects import (
    UNSEEN,
    SavedObjects,
    children_of,
    few,
    read_objects,
    was_restored,
    weights_of,
)
from tfserving.export.tracking import not_checkpointed, trackables, variables_of


@dataclass(frozen=True)
class Restore:
    """One restore, and the variables that it did not change.

    `path` is None when there was no checkpoint. `objects` is the tree in the checkpoint, None when it has none. `given`
    contains the ids of the handles of variables that got a value at once. `left` has the other variables with a digest
    of their value. `steps` has the optimizers with their numbers of steps.
    """

    checkpoint: Any
    path: str | None
    status: Any
    objects: SavedObjects | None
    given: set[int]
    left: dict[int, tuple[Any, int]]
    steps: dict[int, tuple[Any, int]]

    def arrived(self) -> set[int]:
        """Return the ids of the handles of variables that have got a value by now."""
        if self.objects is None:
            return self.given
        since = self.status._checkpoint.restore_uid
        found = variables_of(self.checkpoint).values()
        return self.given | {id(one.handle) for one in found if was_restored(one, since)}

    def saved(self) -> tuple[set[int], set[int]]:
        """Return the ids of the handles of live variables that the checkpoint contains.

        First those that TensorFlow finds, then those that Keras 2 wrote under other names.
        """
        if self.objects is None:
            return set(), set()
        live = children_of(self.checkpoint)
        root = live.get("root")
        # tf.train.Checkpoint(model) writes the children of the model as its own.
        tracked = self.objects.matched(live | (children_of(root) if root is not None else {}), 0)
        named = matched_by_name(self.objects, live if root is None else root, tracked)
        return {id(one.handle) for one in tracked.values()}, {id(one.handle) for one in named.values()}

    @property
    def is_partial(self) -> bool:
        """Whether the builder declared with expect_partial() that the checkpoint is incomplete."""
        return self.objects is not None and bool(self.status._checkpoint.expect_partial)

    def is_as_left(self, variable: Any, module: Any) -> bool:
        """Return whether `variable`, which got no value, has not changed since, for example by training `module`."""
        if id(variable.handle) in self.left:
            return self.left[id(variable.handle)][1] == _digest(variable)
        # It was created later. Its first value is unknown, but optimizers count their steps.
        now = _steps([self.checkpoint, module])
        return all(
            done == (self.steps[key][1] if key in self.steps else 0) or was_restored(optimizer.iterations)
            for key, (optimizer, done) in now.items()
        )


_watching: list[Restore] | None = None


@contextlib.contextmanager
def watch() -> Iterator[list[Restore]]:
    """Record every restore by `tf.train.Checkpoint` and `tf.train.CheckpointManager` until the block ends.

    A watch inside another one begins with the restores of the outer one, and records later ones for itself.
    """
    import tensorflow as tf

    global _watching  # noqa: PLW0603 - there is also only one of TensorFlow's classes
    outer = _watching
    wrapped: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
        (tf.train.Checkpoint, "read", _noting_restore),
        (tf.compat.v1.train.Checkpoint, "restore", _noting_restore),
        (tf.train.CheckpointManager, "restore_or_initialize", _noting_initialize),
    )
    with contextlib.ExitStack() as undone:
        if outer is None:
            for owner, name, noting in wrapped:
                method = getattr(owner, name)
                undone.callback(setattr, owner, name, method)
                setattr(owner, name, noting(method))
        _watching = [*(outer or ())]
        try:
            yield _watching
        finally:
            _watching = outer


def _noting_restore(method: Any) -> Any:
    @functools.wraps(method)
    def restore(self: Any, save_path: Any, *arguments: Any, **options: Any) -> Any:
        status = method(self, save_path, *arguments, **options)
        _note(self, save_path, status)
        return status

    return restore


def _noting_initialize(method: Any) -> Any:
    @functools.wraps(method)
    def restore_or_initialize(self: Any) -> Any:
        if self.latest_checkpoint is None:
            _note(self.checkpoint, None, None)
        return method(self)

    return restore_or_initialize


def _note(checkpoint: Any, path: Any, status: Any) -> None:
    import tensorflow as tf

    if _watching is None or not tf.executing_eagerly():
        return
    # In the scope of a strategy, variables have no handles. Whether they got a value is checked later.
    hidden = tf.distribute.in_cross_replica_context()
    weights = () if hidden else weights_of(checkpoint).values()
    steps = {} if hidden else _steps([checkpoint])
    objects = None
    given: set[int] = set()
    if path is not None:
        reader = tf.train.load_checkpoint(str(path))
        if objects := read_objects(reader):
            given = {id(one.handle) for one in weights if was_restored(one, status._checkpoint.restore_uid)}
        else:
            given = {id(one.handle) for one in weights if _has_value(reader, one)}
    left = {id(one.handle): (one, _digest(one)) for one in weights if id(one.handle) not in given}
    name = None if path is None else str(path)
    _watching.append(Restore(checkpoint, name, status, objects, given, left, steps))


def _has_value(reader: Any, variable: Any) -> bool:
    """Return whether `variable` has the value under its name in a checkpoint that has only names."""
    import numpy as np

    name = variable.name.partition(":")[0]
    return bool(reader.has_tensor(name) and np.array_equal(reader.get_tensor(name), variable.numpy()))


def _digest(variable: Any) -> int:
    import numpy as np

    array = np.ascontiguousarray(variable.numpy())
    if array.dtype.hasobject:
        return hash(tuple(array.ravel().tolist()))
    # The bytes of the array itself, not a copy.
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)


def _steps(modules: Iterable[Any]) -> dict[int, tuple[Any, int]]:
    """Return Keras's optimizers in `modules` by id, with their numbers of steps."""
    import keras

    found = [one for module in modules for one in trackables(module).values()]
    optimizers = [one for one in found if isinstance(one, keras.optimizers.Optimizer)]
    return {id(one): (one, int(one.iterations.numpy())) for one in optimizers}


def check(restores: Iterable[Restore], module: Any, functions: Mapping[str, Any]) -> None:
    """Raise CheckpointError when a restore did not assign values to the variables that `functions` use.

    `functions` are the traced signatures of `module`. The values are not compared with the checkpoint: a model may be
    trained after a restore.
    """
    used = {id(variable.handle) for function in functions.values() for variable in function.variables}
    for restore in restores:
        served = {path: one for path, one in weights_of(restore.checkpoint).items() if id(one.handle) in used}
        if served and restore.path is None:
            _check_nothing(restore, served, module)
        elif served:
            _check_values(restore, served, module)
    _check_normalization(module)


def _check_nothing(restore: Restore, served: Mapping[str, Any], module: Any) -> None:
    if all(not was_restored(one) and restore.is_as_left(one, module) for one in served.values()):
        raise CheckpointError(
            f"the builder called restore(None), which restores nothing, so {few(served)} have the initial values of a "
            "new model. Correct the checkpoint folder, or call restore() only when there is a checkpoint."
        )


def _check_values(restore: Restore, served: Mapping[str, Any], module: Any) -> None:
    arrived = restore.arrived()
    tracked, named = restore.saved()
    missing = {path: one for path, one in served.items() if id(one.handle) not in arrived}
    if lost := [path for path, one in missing.items() if id(one.handle) in tracked]:
        raise CheckpointError(
            f"the builder restored {restore.path}, but its values did not reach {few(lost)}, which were created after "
            "restore(). Build the model before restore(), for example by calling it on example rows: model(examples). "
            "Or remove restore() from the builder and use --from-checkpoint."
        )
    if renamed := [path for path, one in missing.items() if id(one.handle) in named]:
        raise CheckpointError(
            f"the builder restored {restore.path}, but its values did not reach {few(renamed)}, which Keras 2 wrote "
            "under other names. Remove restore() from the builder and use --from-checkpoint, which supports them."
        )
    # For a checkpoint of names, TensorFlow marks every variable as restored, even if its name is missing.
    kept = {path: one for path, one in missing.items() if restore.objects is None or not was_restored(one)}
    kept = {path: one for path, one in kept.items() if restore.is_as_left(one, module)}
    unseen = {id(one.handle) for one in not_checkpointed(restore.checkpoint).values()}
    if hidden := [path for path in kept if id(kept[path].handle) in unseen]:
        raise CheckpointError(f"the builder restored {restore.path}, which has no value for {few(hidden)}. {UNSEEN}")
    if kept and not restore.is_partial:
        raise CheckpointError(
            f"the builder restored {restore.path}, which has no value for {few(kept)}, so they have the initial values "
            "of a new model. Restore a checkpoint of this model, or, if this is intended, call "
            "restore(…).expect_partial()."
        )


def _check_normalization(module: Any) -> None:
    """Raise CheckpointError when a layer computes with a mean that differs from its variables."""
    import keras
    import numpy as np

    for path, layer in trackables(module).items():
        if not isinstance(layer, keras.layers.Normalization) or not was_restored(getattr(layer, "adapt_mean", None)):
            continue
        if not np.array_equal(np.ravel(layer.mean), np.ravel(layer.adapt_mean)):
            raise CheckpointError(
                f"{path}: this Normalization layer computes with the mean from before its variables were restored. "
                "Call its finalize_state() after restore()."
            )
