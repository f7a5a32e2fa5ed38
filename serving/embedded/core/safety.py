"""What a SavedModel may not do to the server that runs it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from tfserving.foundation.graph import FILE_OPS, PYTHON_OPS, Graph, Node
from tfserving.foundation.messages import SavedModel
from tfserving.serving.embedded.errors import Code, RequestError

# Vocabularies are read from the version's own assets when it is loaded.
_TABLES = ("InitializeTableFromTextFile", "InitializeTableFromTextFileV2")
FLAG = "--allow_file_and_python_ops"


def check_operations(path: Path, tags: tuple[str, ...]) -> dict[str, str]:
    """Why signatures of the SavedModel in `path` must not be asked: they read or write files, or call Python.

    A file that is no SavedModel is left to TensorFlow, which has its own words. Raises RequestError PERMISSION_DENIED
    when such an operation runs as soon as the graph is loaded, or when no other signature is left.
    """
    graph = _read(path, tags)
    if graph is None:
        return {}
    if trouble := _trouble(node for node in graph.initializers() if node.op not in _TABLES):
        raise RequestError(Code.PERMISSION_DENIED, f"{path}: as soon as it is loaded {trouble}")
    refused = {
        name: f"signature {name!r}: when it is asked {trouble}"
        for name in graph.signatures
        if (trouble := _trouble(graph.nodes(name)))
    }
    if refused and len(refused) == len(graph.signatures):
        raise RequestError(Code.PERMISSION_DENIED, f"{path}: {'; '.join(refused.values())}")
    return refused


def _trouble(nodes: Iterable[Node]) -> str:
    """What the first operation that isn't allowed does."""
    for node in nodes:
        if node.op in PYTHON_OPS or node.op in FILE_OPS:
            what = "calls Python in" if node.op in PYTHON_OPS else "reads or writes files of"
            return f"{node} {what} this server; {FLAG} allows that"
    return ""


def _read(path: Path, tags: tuple[str, ...]) -> Graph | None:
    saved = SavedModel()
    try:
        binary = path / "saved_model.pb"
        if binary.is_file():
            saved.ParseFromString(binary.read_bytes())
        else:
            text_format.Parse((path / "saved_model.pbtxt").read_text(encoding="utf-8"), saved)
    except (OSError, UnicodeDecodeError, DecodeError, text_format.ParseError):
        return None
    for meta_graph in saved.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return Graph(meta_graph)
    return None
