"""Refuses operations of a SavedModel that could harm the server.

Every operation must be known to be safe, wherever it is in the graph (`tfserving.foundation.operations`). A few others
are allowed where they do what they are made for:

    signatures        none
    initialisation    those that fill tables, from the version's own assets
    restoration       those that fill tables, and that read the version's own checkpoint
    what never runs   all of these, and those that write checkpoints

When a signature, or a part that never runs, contains others, only the rest of the graph is loaded. It isn't enough not
to run them, because TensorFlow computes constants, also from a file's contents, while it imports a graph.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from tfserving.foundation.graph import INIT, INIT_COLLECTIONS, Graph, Node, Reach
from tfserving.foundation.operations import ALLOWED, DOES, LOAD, NEW, RESTORE, SAVE, TABLE, UNLOAD, class_of
from tfserving.serving.embedded.errors import Code, RequestError

log = logging.getLogger(__name__)

FLAG = "--allow_file_and_python_ops"
ONE_FLAG = "--allowed_operations"
ASSETS = "assets"
# The collection of assets in TensorFlow 1.
ASSETS_COLLECTION = "saved_model_assets"
MAY_STAND_UNUSED = (LOAD, TABLE, RESTORE, SAVE, UNLOAD)
# TensorFlow follows function calls by recursion, and a stack overflow ends the process.
MOST_NESTED = 100
MOST_CALLS = 100_000
REFUSALS_SHOWN = 5
LONGEST_NAME = 200


def check_operations(meta_graph: Any, path: Path, allowed: Collection[str] = ()) -> dict[str, str]:
    """Removes the signatures that must not run from the MetaGraphDef of `path`; returns the reason for each.

    Operations in `allowed` are allowed anywhere. Raises RequestError PERMISSION_DENIED when another one that is not
    known to be safe runs while the graph is loaded, or when no signature is left.
    """
    # TensorFlow in Python also runs operations named in other collections. TensorFlow Serving ignores those.
    for name in {*meta_graph.collection_def} - {*INIT_COLLECTIONS, ASSETS_COLLECTION}:
        del meta_graph.collection_def[name]
    try:
        graph = Graph(meta_graph)
    except ValueError as error:
        raise RequestError(Code.PERMISSION_DENIED, f"{path}: {error}") from None
    deep, calls = graph.nesting()
    if deep > MOST_NESTED or calls > MOST_CALLS:
        raise RequestError(
            Code.PERMISSION_DENIED,
            f"{path}: functions are nested {deep:g} deep, and one call makes {calls:g} calls; at most "
            f"{MOST_NESTED} and {MOST_CALLS} are allowed. {FLAG} allows any number",
        )
    # In most graphs these are the few operations that save and restore the variables.
    special = [node for node in graph if node.op not in allowed and not _is_allowed(graph, node)]
    if not special:
        return {}
    assets = _assets(meta_graph)
    loaded = _check_loading(graph, assets, path, special)
    del meta_graph.asset_file_def[:]
    for tensor, file in assets.items():
        meta_graph.asset_file_def.add(filename=file).tensor_info.name = tensor

    leading = graph.leading_to(special)
    ends = {name: graph.ends(name) for name in graph.signatures}
    found = {name: next((leading[end] for end in ends[name] if end in leading), None) for name in ends}
    refused = {name: _refusal(name, node) for name, node in found.items() if node}
    if refused and len(refused) == len(ends):
        raise RequestError(Code.PERMISSION_DENIED, f"{path}: {_listed([*refused.values()])}")
    unused = [node for node in special if class_of(node.message) not in MAY_STAND_UNUSED]
    if refused or unused:
        without = _listed([_where(node) for node in unused]) or "the refused signatures"
        log.info("%s: the graph is loaded without %s", path, without)
        _keep(meta_graph, loaded | graph.reach(end for name in ends if name not in refused for end in ends[name]))
    initialised = graph.reach(graph.init)
    if node := next((node for node in special if node in initialised), None):
        # The initialisation is also a signature, and a request would run it without the assets' paths.
        refused[INIT] = _refusal(INIT, node)
    return refused


def _is_allowed(graph: Graph, node: Node) -> bool:
    kind = class_of(node.message)
    return kind == ALLOWED or (kind == NEW and graph.is_function(node.op))


def _check_loading(graph: Graph, assets: dict[str, str], path: Path, special: list[Node]) -> Reach:
    """Returns the nodes that run, or get a value, while the graph is loaded. Raises RequestError for refused ones.

    Adds to `assets` the tensors that must be fed as well, so that tables read only assets.
    """
    initialised = graph.reach([*graph.init, *assets])
    restored = graph.reach([*graph.restore, graph.saver_file])
    for node in special:
        kind = class_of(node.message)
        trouble = ""
        if node in initialised and kind != LOAD:
            trouble = _trouble(node)
            if kind == TABLE:
                own = _feeds_assets(graph, node, assets, path)
                trouble = "" if own else _trouble(node, "reads a file that is not an asset of this version")
        if not trouble and node in restored and kind != LOAD:
            trouble = _trouble(node)
            if kind == RESTORE:
                own = graph.origins(node, 0) == {graph.saver_file}
                trouble = "" if own else _trouble(node, "reads a file that is not the checkpoint of this version")
        if trouble:
            raise RequestError(Code.PERMISSION_DENIED, f"{path}: loading it runs {trouble}")
    return initialised | restored


def _feeds_assets(graph: Graph, table: Node, assets: dict[str, str], path: Path) -> bool:
    """Returns whether `table` can read only assets. Adds to `assets` the tensors that must be fed for that."""
    tensors = graph.origins(table, 1)
    for tensor in tensors - assets.keys():
        # TensorFlow 2 stores the path in a variable. Its reader is fed the asset's path, whatever else is assigned.
        assigned = graph.assigned(tensor)
        if len(assigned) == 1 and assigned <= assets.keys():
            assets[tensor] = assets[assigned.pop()]
    return bool(tensors) and all(tensor in assets and _is_own(assets[tensor], path) for tensor in tensors)


def _assets(meta_graph: Any) -> dict[str, str]:
    """Returns the names of the version's asset files, by the tensors that are fed with their paths."""
    files = list(meta_graph.asset_file_def)
    if not files and ASSETS_COLLECTION in meta_graph.collection_def:
        for packed in meta_graph.collection_def[ASSETS_COLLECTION].any_list.value:
            files.append(type(meta_graph)().asset_file_def.add())
            packed.Unpack(files[-1])
    return {file.tensor_info.name: file.filename for file in files}


def _is_own(file: str, path: Path) -> bool:
    """Returns whether the asset `file` is a file in the version's folder `path`."""
    if not file or PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        return False
    try:
        found = (path / ASSETS / file).resolve()
        return found.is_relative_to(path.resolve()) and (found.is_file() or not found.exists())
    except (OSError, ValueError, RuntimeError):
        return False


def _keep(meta_graph: Any, kept: Reach) -> None:
    """Removes all nodes and functions from a MetaGraphDef that are not in `kept`."""
    whole = meta_graph.graph_def
    part = type(whole)(versions=whole.versions)
    part.node.extend(node for node in whole.node if node.name in kept.nodes)
    for node in part.node:
        if "_class" in node.attr:
            near = node.attr["_class"].list.s
            there = [name for name in near if name.decode(errors="replace").removeprefix("loc:@") in kept.nodes]
            del near[:]
            near.extend(there)
    library = whole.library
    part.library.function.extend(f for f in library.function if f.signature.name in kept.functions)
    part.library.gradient.extend(one for one in library.gradient if one.function_name in kept.functions)
    whole.CopyFrom(part)


def _refusal(signature: str, node: Node) -> str:
    return f"signature {_shown(signature)!r} runs {_trouble(node)}"


def _trouble(node: Node, does: str = "") -> str:
    does = does or DOES[class_of(node.message)]
    return f"{_where(node)}, which {does}; {ONE_FLAG}={_shown(node.op)} allows this operation, {FLAG} all"


def _where(node: Node) -> str:
    function = f", function {_shown(node.function)}" if node.function else ""
    return f"{_shown(node.op)} ({_shown(node.message.name)}{function})"


def _shown(name: str) -> str:
    """Returns a printable form of a name, for errors and logs."""
    short = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    return "".join(letter if letter.isprintable() else "?" for letter in short)


def _listed(texts: list[str]) -> str:
    more = [f"{len(texts) - REFUSALS_SHOWN} more"] if len(texts) > REFUSALS_SHOWN else []
    return "; ".join(texts[:REFUSALS_SHOWN] + more)
