"""What is wrong with a builder's name as far as files tell: nothing is imported, which may take a minute.

Only what is certain is an error here. A module may make its names in ways that its text doesn't show; importing it
tells then.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

from tfserving.export.errors import BuilderError
from tfserving.export.user_code import raised

# Names with which a module can get others that its text doesn't show.
_DYNAMIC = {"globals", "vars", "locals", "setattr", "exec", "eval", "__dict__", "__getattr__", "__path__", "modules"}


def look_at(name: str) -> None:
    """Raises BuilderError when there is no module or function 'module:function', or Python can't read the module."""
    module_name, _, function_name = name.partition(":")
    find_here()
    spec = _spec(name, module_name)
    if spec is None:
        return
    # A folder that is no package has no file, whatever the loader that Python gives it.
    if spec.origin is None and spec.submodule_search_locations is not None and not _is_loaded(module_name):
        folders = ", ".join(spec.submodule_search_locations or ())
        raise BuilderError(f"builder {name!r}: {folders} is a folder without __init__.py, it has no {function_name!r}")
    tree = _tree(name, spec)
    if tree is None or _is_dynamic(tree):
        return
    if function_name not in {*_bound(tree)}:
        raise BuilderError(no_function(name, str(spec.origin), _functions(tree)))


def no_function(name: str, file: str, functions: list[str]) -> str:
    """That `file` has not the function of builder `name`, and which it has."""
    there = ", ".join(sorted(functions)) or "none"
    return f"builder {name!r}: {file} has no function {name.partition(':')[2]!r}; it has {there}"


def no_module(name: str, missing: str) -> str:
    """That builder `name` needs a module that isn't there."""
    return f"builder {name!r}: there is no module {missing!r}, neither in {Path.cwd()} nor installed"


def find_here() -> None:
    """Lets modules of the current folder be found as installed ones are."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _spec(name: str, module_name: str) -> ModuleSpec | None:
    """Where the module is; None when only importing it can tell. Raises BuilderError when it is nowhere."""
    folders: Any = None
    spec: ModuleSpec | None = None
    parts = module_name.split(".")
    for number in range(1, len(parts) + 1):
        full = ".".join(parts[:number])
        parent, spec = spec, _find(full, folders)
        if spec is None:
            # A package can make modules when it is imported.
            if parent is not None and (tree := _tree(name, parent)) is not None and _is_dynamic(tree):
                return None
            raise BuilderError(no_module(name, full))
        folders = spec.submodule_search_locations
        if folders is None and number < len(parts):
            raise BuilderError(f"{no_module(name, '.'.join(parts[: number + 1]))}; {spec.origin} is no package")
    return spec


def _find(full: str, folders: Any) -> ModuleSpec | None:
    if _is_loaded(full):
        return sys.modules[full].__spec__
    for finder in sys.meta_path:
        if (find_spec := getattr(finder, "find_spec", None)) and (spec := find_spec(full, folders)):
            return spec  # type: ignore[no-any-return]
    return None


def _is_loaded(full: str) -> bool:
    return getattr(sys.modules.get(full), "__spec__", None) is not None


def _tree(name: str, spec: ModuleSpec) -> ast.Module | None:
    """The text of a module, parsed; None when it has none. Raises BuilderError when it isn't Python."""
    if not isinstance(spec.loader, SourceFileLoader) or not spec.origin:
        return None
    try:
        data = Path(spec.origin).read_bytes()
    except OSError as error:
        raise BuilderError(f"builder {name!r}: {spec.origin}: {error.strerror}") from None
    try:
        return ast.parse(data, spec.origin)
    except (SyntaxError, ValueError) as error:
        raise BuilderError(f"builder {name!r}: importing it raised {raised(error, module=name)}") from None


def _is_dynamic(tree: ast.Module) -> bool:
    """Whether the module can have names that its text doesn't show."""
    return any(
        isinstance(node, ast.Global)
        or (isinstance(node, ast.alias) and node.name == "*")
        or getattr(node, "id", None) in _DYNAMIC
        or getattr(node, "attr", None) in _DYNAMIC
        or getattr(node, "name", None) in _DYNAMIC
        for node in ast.walk(tree)
    )


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that a module's statements give to something, in whatever block they are."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            # What is inside is its own; decorators and defaults can only bind by `:=`.
            yield child.name
            yield from (walked.target.id for walked in ast.walk(child) if isinstance(walked, ast.NamedExpr))
            continue
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif isinstance(child, ast.alias):
            yield child.asname or child.name.partition(".")[0]
        elif isinstance(child, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and child.name:
            yield child.name
        elif isinstance(child, ast.MatchMapping) and child.rest:
            yield child.rest
        yield from _bound(child)


def _functions(tree: ast.Module) -> list[str]:
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
