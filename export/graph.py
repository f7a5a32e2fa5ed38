"""The graph of a SavedModel on disk, read without TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfserving.export.errors import ExportError
from tfserving.foundation.golden import SAVED_MODEL
from tfserving.foundation.graph import CALLS, Graph
from tfserving.foundation.messages import SavedModel


def read_saved_model(folder: Path) -> Any:
    """Return the message in `folder`/saved_model.pb. Raises ExportError when it is missing or can't be read."""
    path = folder / SAVED_MODEL
    try:
        return SavedModel.FromString(path.read_bytes())
    except OSError as error:
        raise ExportError(f"{folder} is not a SavedModel: {path}: {error.strerror}") from None
    except DecodeError:
        raise ExportError(f"{path} is damaged, or it is not a SavedModel") from None


def serving_graph(saved: Any, folder: Path) -> Any:
    """Return the part of a SavedModel that is served: the meta graph with the tag `serve` and no other.

    Raises ExportError when there is none. Servers compare all tags:
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/cc/saved_model/reader.cc (FindMetaGraphDef).
    """
    for graph in saved.meta_graphs:
        if list(graph.meta_info_def.tags) == ["serve"]:
            return graph
    tags = ", ".join(repr(sorted(graph.meta_info_def.tags)) for graph in saved.meta_graphs) or "none"
    raise ExportError(
        f"{folder} has no graph for serving: expected one with the tag 'serve' alone, got {tags}. Load it and save it "
        "again with TensorFlow."
    )


def read_graph(folder: Path) -> Graph:
    """Return the graph that is served of the SavedModel in `folder`. Raises ExportError when it can't be read."""
    try:
        graph = Graph(serving_graph(read_saved_model(folder), folder))
    except ValueError as error:
        raise ExportError(f"{folder / SAVED_MODEL}: {error}") from None
    for node in graph:
        if node.op in CALLS and not graph.is_function(called := node.message.attr["f"].func.name):
            raise ExportError(f"{folder / SAVED_MODEL}: {node} calls {called!r}, which is not a function of the graph")
    return graph


def has_functions(folder: Path) -> bool:
    """Return whether the SavedModel in `folder` has functions; one that TensorFlow 1 wrote has only a graph.

    Raises ExportError when it can't be read.
    """
    return bool(serving_graph(read_saved_model(folder), folder).object_graph_def.nodes)
