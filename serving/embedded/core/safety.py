"""What a SavedModel may not do to the server that runs it.

Every operation has to be known to be safe, wherever it stands (`tfserving.foundation.operations`). A few others may
stand where they do what they are for:

    signatures        none
    initialisation    those that fill tables, from the version's own assets
    restoration       those that fill tables, and that read the version's own checkpoint
    what never runs   all of these, and those that write checkpoints

When a signature or something that never runs has more than that, only the rest of the graph is loaded. It isn't enough
not to run it: TensorFlow computes constants, of a file's contents too, while it imports a graph.
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
# Where TensorFlow 1 has them.
ASSETS_COLLECTION = "saved_model_assets"
MAY_STAND_UNUSED = (LOAD, TABLE, RESTORE, SAVE, UNLOAD)
REFUSALS_SHOWN = 5


def check_operations(meta_graph: Any, path: Path, allowed: Collection[str] = ()) -> dict[str, str]:
    """Why signatures of a MetaGraphDef, which the SavedModel in `path` has, must not be asked; they are cut out of it.

    Operations in `allowed` may stand anywhere. Raises RequestError PERMISSION_DENIED when another one that is not known
    to be safe runs as soon as the graph is loaded, or when no signature is left.
    """
    # TensorFlow in Python also runs what others name, the variables' say; TensorFlow Serving knows no others.
    for name in {*meta_graph.collection_def} - {*INIT_COLLECTIONS, ASSETS_COLLECTION}:
        del meta_graph.collection_def[name]
    try:
        graph = Graph(meta_graph)
    except ValueError as error:
        raise RequestError(Code.PERMISSION_DENIED, f"{path}: {error}") from None
    # For most graphs these are the few that save and restore the variables.
    special = [(node, kind) for node in graph if (kind := _kind(graph, node, allowed)) != ALLOWED]
    if not special:
        return {}
    assets = _assets(meta_graph)
    loaded = _check_loading(graph, assets, path, special)
    del meta_graph.asset_file_def[:]
    for tensor, file in assets.items():
        meta_graph.asset_file_def.add(filename=file).tensor_info.name = tensor
    refused: dict[str, str] = {}
    unused = [node for node, kind in special if kind not in MAY_STAND_UNUSED]
    asked = graph.reach(tensor for name in graph.signatures for tensor in graph.ends(name))
    if unused or any(node in asked for node, _ in special):
        kept = loaded
        for name in graph.signatures:
            reach = graph.reach(graph.ends(name))
            if found := next(((node, kind) for node, kind in special if node in reach), None):
                refused[name] = f"signature {name!r}: when it is asked {_trouble(found[0], DOES[found[1]])}"
            else:
                kept |= reach
        if refused and len(refused) == len(graph.signatures):
            raise RequestError(Code.PERMISSION_DENIED, f"{path}: {_listed([*refused.values()])}")
        without = _listed([_where(node) for node in unused]) or "the refused signatures"
        log.info("%s: only what is served is loaded, without %s", path, without)
        _keep(meta_graph, kept)
    initialised = graph.reach(graph.init)
    if found := next(((node, kind) for node, kind in special if node in initialised), None):
        # It is a signature, too, and a request would run it without the assets' paths.
        refused[INIT] = f"signature {INIT!r}: when it is asked {_trouble(found[0], DOES[found[1]])}"
    return refused


def _kind(graph: Graph, node: Node, allowed: Collection[str]) -> str:
    kind = class_of(node.message)
    return ALLOWED if node.op in allowed or (kind == NEW and graph.is_function(node.op)) else kind


def _check_loading(graph: Graph, assets: dict[str, str], path: Path, special: list[tuple[Node, str]]) -> Reach:
    """What runs when the graph is loaded, or gets a value then. Raises RequestError when it does what it may not.

    Adds to `assets` what has to be fed, too, for tables to read nothing but assets.
    """
    initialised = graph.reach([*graph.init, *assets])
    restored = graph.reach([*graph.restore, graph.saver_file])
    for node, kind in special:
        trouble = ""
        if node in initialised and kind != LOAD:
            trouble = _trouble(node, DOES[kind])
            if kind == TABLE:
                own = _feeds_assets(graph, node, assets, path)
                trouble = "" if own else _trouble(node, "reads a file that is not an asset of this version")
        if not trouble and node in restored and kind != LOAD:
            trouble = _trouble(node, DOES[kind])
            if kind == RESTORE:
                own = graph.origins(node, 0) == {graph.saver_file}
                trouble = "" if own else _trouble(node, "reads a file that is not the checkpoint of this version")
        if trouble:
            raise RequestError(Code.PERMISSION_DENIED, f"{path}: as soon as it is loaded {trouble}")
    return initialised | restored


def _feeds_assets(graph: Graph, table: Node, assets: dict[str, str], path: Path) -> bool:
    """Whether all that `table` may read is assets; adds to `assets` the tensors that have to be fed for that."""
    tensors = graph.origins(table, 1)
    for tensor in tensors - assets.keys():
        # TensorFlow 2 keeps the path in a variable. Whatever else is assigned to it, its reader gets the asset's path.
        assigned = graph.assigned(tensor)
        if len(assigned) == 1 and assigned <= assets.keys():
            assets[tensor] = assets[assigned.pop()]
    return bool(tensors) and all(tensor in assets and _is_own(assets[tensor], path) for tensor in tensors)


def _assets(meta_graph: Any) -> dict[str, str]:
    """The names of the version's asset files, by the tensors that get their paths when the graph is initialised."""
    files = list(meta_graph.asset_file_def)
    if not files and ASSETS_COLLECTION in meta_graph.collection_def:
        for packed in meta_graph.collection_def[ASSETS_COLLECTION].any_list.value:
            files.append(type(meta_graph)().asset_file_def.add())
            packed.Unpack(files[-1])
    return {file.tensor_info.name: file.filename for file in files}


def _is_own(file: str, path: Path) -> bool:
    """Whether the asset called `file` is a file in the version's folder `path`."""
    if not file or PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        return False
    try:
        found = (path / ASSETS / file).resolve()
        return found.is_relative_to(path.resolve()) and (found.is_file() or not found.exists())
    except (OSError, ValueError, RuntimeError):
        return False


def _keep(meta_graph: Any, kept: Reach) -> None:
    """Leaves in a MetaGraphDef only what is in `kept`."""
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


def _trouble(node: Node, does: str) -> str:
    return f"{_where(node)} {does}; {FLAG} allows that, {ONE_FLAG}={node.op} this operation alone"


def _where(node: Node) -> str:
    function = f", function {node.function}" if node.function else ""
    return f"{node.op} ({node.message.name}{function})"


def _listed(texts: list[str]) -> str:
    more = [f"{len(texts) - REFUSALS_SHOWN} more"] if len(texts) > REFUSALS_SHOWN else []
    return "; ".join(texts[:REFUSALS_SHOWN] + more)
