"""Restores a servable's variables from a checkpoint that contains all of those that are served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserving.export.errors import CheckpointError, ServableError
from tfserving.export.keras_2_names import matched_by_name
from tfserving.export.named_checkpoints import read_names
from tfserving.export.saved_objects import COUNTER, UNSEEN, SavedObjects, children_of, few, read_objects, weights_of
from tfserving.export.servable import Servable
from tfserving.export.tracking import not_checkpointed, trackables


@dataclass(frozen=True)
class Restored:
    """What a restore left out.

    `kept` lists the weights that are only in the model, `unused` those that are only in the checkpoint, by path.
    """

    kept: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def restore(servable: Servable, prefix: Path, functions: Mapping[str, Any], *, partial: bool = False) -> Restored:
    """Restore what `servable` declares as its checkpoint from the checkpoint `prefix`.

    Every weight that the traced `functions` use must be in it, with the same shape and dtype, and every weight in it
    must be in the model. With `partial`, weights may be missing on both sides. Optimizers are not restored. The
    functions are not traced again.

    Raises CheckpointError before it changes anything, with a line for each variable that does not fit.
    """
    import keras
    import tensorflow as tf

    parts = dict(servable.checkpoint) or {"model": servable.module}
    used = {id(variable.handle) for function in functions.values() for variable in function.variables}
    wanted = {path: variable for path, variable in _weights(parts).items() if id(variable.handle) in used}
    if not wanted:
        raise CheckpointError(f"{prefix}: the signatures use no variable of {', '.join(map(_part, parts))}")
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        objects = read_objects(reader)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{prefix} is not a checkpoint, or it is damaged: {error}") from None
    fit = read_names(reader, wanted) if objects is None else _read_tree(parts, wanted, reader, objects)
    problems = [*fit.problems]
    if not partial:
        problems += [f"{path} is only in the model" for path in fit.kept]
        problems += [f"{path} is only in the checkpoint" for path in fit.unused]
    elif len(fit.kept) == len(wanted):
        problems.append("it contains no weight of the model")
    if problems:
        lines = [f"{prefix} does not fit the model:", *problems]
        if fit.hint:
            lines.append(fit.hint)
        if not (partial or fit.problems or len(fit.kept) == len(wanted)):
            lines.append("With --partial, the other weights are restored, and these keep the builder's values.")
        raise CheckpointError("\n  ".join(lines))
    fit.restore(str(prefix))
    for trackable in trackables(parts).values():
        if isinstance(trackable, keras.layers.Normalization):
            # It computes with tensors that it derived from its variables when it was built.
            trackable.finalize_state()
    return Restored(tuple(fit.kept), tuple(fit.unused))


def _weights(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of the `parts` that the servable declares as its checkpoint, by path."""
    found = {}
    for name, part in parts.items():
        if hasattr(part, "handle"):
            found[name] = part
            continue
        try:
            found |= {f"{name}.{path}": variable for path, variable in weights_of(part).items()}
        except ServableError:
            raise CheckpointError(
                f"{_part(name)}: got {part!r:.60}, a {type(part).__name__}; expected a model, a layer, a tf.Module, a "
                "variable, or a list or dict of them"
            ) from None
    return found


def _part(name: str) -> str:
    return f"checkpoint[{name!r}]"


@dataclass(frozen=True)
class _Tree:
    """How the variables of a model match those in a checkpoint's tree, and how they are restored."""

    problems: list[str]
    kept: list[str]
    unused: list[str]
    hint: str
    checkpoint: Any
    reader: Any
    named: list[tuple[Any, str | None]]

    def restore(self, prefix: str) -> None:
        """Restore the checkpoint `prefix`. Raises CheckpointError when TensorFlow can't."""
        import tensorflow as tf

        try:
            self.checkpoint.restore(prefix).expect_partial()
        except (tf.errors.OpError, ValueError) as error:
            raise CheckpointError(f"{prefix} can't be restored: {error}") from None
        for variable, key in self.named:
            variable.assign(self.reader.get_tensor(key))


def _read_tree(parts: Mapping[str, Any], wanted: Mapping[str, Any], reader: Any, objects: SavedObjects) -> _Tree:
    import tensorflow as tf

    try:
        checkpoint = tf.train.Checkpoint(**parts)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"tf.train.Checkpoint can't restore {', '.join(map(_part, parts))}: {error}") from None
    roots = objects.children(0)
    live = children_of(checkpoint)
    if len(parts) == 1 and not live.keys() & roots.keys():
        # tf.train.Checkpoint(model) may have written it: it is its own child "root" then. Or Keras 2 wrote it.
        ((name, part),) = live.items()
        own = {} if hasattr(part, "handle") else children_of(part)
        if own and (roots.get("root") == 0 or objects.matched(own, 0)):
            return _compare(tf.train.Checkpoint(part), own, part, {0: name}, wanted, reader, objects)
    if absent := [name for name in live if name not in roots]:
        present = ", ".join(map(repr, sorted(roots))) or "nothing"
        problems = [f"it has no {name!r}; it contains {present}" for name in absent]
        if len(parts) == len(names := [name for name in roots if name != COUNTER]) == 1:
            (only,) = names
            problems[0] += f". If {only!r} is the model, write Servable(…, checkpoint={{{only!r}: model}})."
        return _Tree(problems, [], [], "", checkpoint, reader, [])
    return _compare(checkpoint, live, parts, {roots[name]: name for name in live}, wanted, reader, objects)


def _compare(
    checkpoint: Any,
    live: Mapping[str, Any],
    owner: Any,
    roots: Mapping[int, str],
    wanted: Mapping[str, Any],
    reader: Any,
    objects: SavedObjects,
) -> _Tree:
    """Match the variables that are `wanted` with those below the nodes `roots`.

    `live` are the children of node 0 as TensorFlow tracks them. `owner` has them as attributes or items.
    """
    import tensorflow as tf

    tracked = objects.matched(live, 0)
    named = matched_by_name(objects, owner, tracked)
    matched = tracked | named
    handles = {id(variable.handle) for variable in matched.values()}
    paths = {id(variable.handle): path for path, variable in wanted.items()}
    kept = [path for path, variable in wanted.items() if id(variable.handle) not in handles]
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    problems, unused = [], []
    seen: set[int] = set()
    for root, name in roots.items():
        for path, node, key in objects.variables(root, name):
            if node in seen:
                continue
            seen.add(node)
            saved = f"{dtypes[key].name} {tuple(shapes[key])}"
            if node not in matched:
                # A counter of steps or epochs is not a weight.
                if shapes[key] or not dtypes[key].is_integer:
                    unused.append(path)
                continue
            variable = matched[node]
            here = f"{tf.as_dtype(variable.dtype).name} {tuple(variable.shape)}"
            if here != saved:
                problems.append(
                    f"{paths.get(id(variable.handle), path)} is {saved} in the checkpoint and {here} in the model"
                )
    assigned = [(variable, objects.key(node)) for node, variable in named.items()]
    return _Tree(problems, kept, unused, _unseen(kept, wanted, owner), checkpoint, reader, assigned)


def _unseen(kept: list[str], wanted: Mapping[str, Any], owner: Any) -> str:
    """Return why variables of Keras layers in lists are not in the checkpoint; '' when none that is `kept` is one."""
    unseen = {id(variable.handle) for variable in not_checkpointed(owner).values()}
    paths = [path for path in kept if id(wanted[path].handle) in unseen]
    return f"{few(paths)}: {UNSEEN}" if paths else ""
