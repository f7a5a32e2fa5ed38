"""Restores a servable's variables from a checkpoint, when every one of them is in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfserving.export.errors import ExportError
from tfserving.export.servable import Servable
from tfserving.export.tracking import checkpointed, variables_of

# Where TensorFlow keeps the tree of objects that a checkpoint was written from.
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "VARIABLE_VALUE"


class CheckpointError(ExportError):
    """A checkpoint can't be restored as it should; the text lists every variable that is the reason."""


def find_checkpoint(folder: Path, name: str | None = None) -> Path:
    """The prefix of the checkpoint `name` in `folder`, of the latest one when there is no name.

    Raises CheckpointError when there is no such checkpoint.
    """
    there = sorted(path.stem for path in folder.glob("*.index")) if folder.is_dir() else []
    if name is not None and name in there:
        return folder / name
    said = f"there are {', '.join(there)}" if there else "there are none (files called *.index)"
    if name is not None:
        raise CheckpointError(f"{folder} has no checkpoint {name!r}; {said}")
    # What `tf.train.CheckpointManager` writes: a text proto whose first line names the latest checkpoint.
    state = folder / "checkpoint"
    latest = ""
    if state.is_file():
        line = next((line for line in state.read_text().splitlines() if line.startswith("model_checkpoint_path:")), "")
        latest = Path(line.partition(":")[2].strip().strip('"')).name
    if latest not in there:
        why = f"names {latest!r} as the latest" if latest else "is missing or names none"
        raise CheckpointError(f"{folder}: its file 'checkpoint' {why}; {said}; choose one with --checkpoint")
    return folder / latest


def restore(servable: Servable, prefix: Path) -> None:
    """Restores what `servable` declares as its checkpoint from the checkpoint `prefix`.

    Raises CheckpointError, having changed nothing, when a variable is not in the checkpoint, one of the checkpoint is
    not in the model, or their shapes or dtypes differ. What else the checkpoint holds, an optimizer say, is left alone.
    """
    import tensorflow as tf

    parts = dict(servable.checkpoint) or {"model": servable.module}
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        graph = _object_graph(reader)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{prefix} is no checkpoint that can be read: {error}") from None
    there = {child.local_name: child.node_id for child in graph.nodes[0].children}
    problems: list[str] = []
    for name, part in parts.items():
        if name not in there:
            problems.append(f"it has no {name!r}; it was written with {', '.join(map(repr, sorted(there)))}")
        else:
            problems += _differences(name, part, graph, there[name], reader)
    if problems:
        raise CheckpointError("\n  ".join([f"{prefix} does not fit the model:", *problems]))
    # The model is built, and everything is known to be there: nothing is left to be restored later.
    tf.train.Checkpoint(**parts).restore(str(prefix)).assert_existing_objects_matched().expect_partial()


def _object_graph(reader: Any) -> Any:
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    if not reader.has_tensor(GRAPH):
        raise ValueError("it was not written by tf.train.Checkpoint")
    return TrackableObjectGraph.FromString(reader.get_tensor(GRAPH))


def _differences(name: str, part: Any, graph: Any, root: int, reader: Any) -> Iterator[str]:
    """How the variables of `part` differ from those below the node `root` of the checkpoint's objects."""
    import tensorflow as tf

    written = {id(found) for found in checkpointed(part)}
    live = {
        f"{name}.{path}" if path else name: found for path, found in variables_of(part).items() if id(found) in written
    }
    if not live:
        yield f"{name!r} has no variables: build the model in its builder, before the checkpoint is restored"
        return
    matched = _matched(part, graph, root)
    found = {id(variable) for variable in matched.values()}
    for path, variable in live.items():
        if id(variable) not in found:
            yield f"{path} is in the model, not in the checkpoint"
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    for path, node, key in _saved(name, graph, root):
        if node not in matched:
            yield f"{path} is in the checkpoint, not in the model"
            continue
        shape, dtype = tuple(matched[node].shape), tf.as_dtype(matched[node].dtype)
        if tuple(shapes[key]) != shape or dtypes[key] != dtype:
            there = f"{dtypes[key].name} {tuple(shapes[key])}"
            yield f"{path} is {there} in the checkpoint, {dtype.name} {shape} in the model"


def _matched(part: Any, graph: Any, root: int) -> dict[int, Any]:
    """The variables below `part` that the checkpoint has too, by their nodes: what TensorFlow will restore."""
    import tensorflow as tf

    objects = {root: part}
    waiting = [root]
    while waiting:
        number = waiting.pop()
        children = tf.train.TrackableView.children(objects[number])
        for child in graph.nodes[number].children:
            if child.local_name in children and child.node_id not in objects:
                objects[child.node_id] = children[child.local_name]
                waiting.append(child.node_id)
    return {
        number: found
        for number, found in objects.items()
        if hasattr(found, "handle") and any(attribute.name == VALUE for attribute in graph.nodes[number].attributes)
    }


def _saved(name: str, graph: Any, root: int) -> Iterator[tuple[str, int, str]]:
    """Every variable that the checkpoint has below the node `root`: its path, its node and its key."""
    paths = {root: name}
    waiting = deque([root])
    while waiting:
        number = waiting.popleft()
        for attribute in graph.nodes[number].attributes:
            if attribute.name == VALUE:
                yield paths[number], number, attribute.checkpoint_key
        for child in graph.nodes[number].children:
            if child.node_id not in paths:
                paths[child.node_id] = f"{paths[number]}.{child.local_name}"
                waiting.append(child.node_id)
