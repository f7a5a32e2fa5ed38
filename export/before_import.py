"""Checks the name of a builder against the files, before anything is imported: an import can take a minute.

Only what is certain is an error here. A module may define names in ways that its text doesn't show; then only importing
it shows whether they exist.
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
from tfserving.foundation.command.suggest import did_you_mean
from tfserving.foundation.user_modules import in_project, is_from, own_module

# Names with which a module can define others that its text doesn't show.
_DYNAMIC = {"globals", "vars", "locals", "setattr", "exec", "eval", "__dict__", "__getattr__", "__path__", "modules"}
# The packages that importing TensorFlow and Keras imports: they are loaded before any builder.
_OF_TENSORFLOW = (
    *("absl", "astunparse", "flatbuffers", "gast", "google", "h5py", "keras", "ml_dtypes", "namex", "numpy"),
    *("opt_einsum", "optree", "packaging", "requests", "rich", "six", "tensorflow", "termcolor", "typing_extensions"),
    "wrapt",
)
_TOOLKIT = "tfserving"
# Python's own tests: nothing imports them.
_UNUSED = ("test",)


def look_at(name: str, folder: Path) -> None:
    """Check that there is a function 'module:function', in a module of `folder` or an installed one.

    Raises BuilderError when the module or the function doesn't exist, or the module isn't valid Python.
    """
    module_name, _, function_name = name.partition(":")
    with in_project(folder):
        top = module_name.partition(".")[0]
        if clash := name_clash(folder, top):
            raise BuilderError(f"builder {name!r}: {clash}")
        spec = _spec(name, module_name, folder)
    if spec is None:
        return
    # A folder that is no package has no file, even if Python gives it a loader.
    if spec.origin is None and spec.submodule_search_locations is not None and not _is_loaded(module_name):
        folders = ", ".join(spec.submodule_search_locations or ())
        raise BuilderError(
            f"builder {name!r}: {folders} is a folder without __init__.py, so it has no function {function_name!r}. "
            f"Name a module in it, as in '{module_name}.MODULE:{function_name}'."
        )
    tree = _tree(name, spec)
    if tree is None or _is_dynamic(tree):
        return
    if function_name not in {*_bound(tree)}:
        raise BuilderError(no_function(name, str(spec.origin), _functions(tree)))
    if needed := _needed_arguments(tree, function_name):
        raise BuilderError(
            f"builder {name!r}: expected a function without arguments; {function_name} in {spec.origin} requires "
            f"{', '.join(needed)}"
        )


def _needed_arguments(tree: ast.Module, name: str) -> list[str]:
    """Return the arguments that a plain function of the module requires; none for one that a decorator may change."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if len(found) != 1 or found[0].decorator_list:
        return []
    arguments = found[0].args
    positional = [*arguments.posonlyargs, *arguments.args]
    needed = positional[: len(positional) - len(arguments.defaults)]
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [one.arg for one in [*needed, *(one for one, default in keywords if default is None)]]


def no_function(name: str, file: str, functions: list[str]) -> str:
    """Return the error for a builder whose module `file` has only these `functions`."""
    wanted = name.partition(":")[2]
    found = ", ".join(sorted(functions)) or "none"
    return f"builder {name!r}: {file} has no function {wanted!r}; it has {found}.{did_you_mean(wanted, functions)}"


def no_module(name: str, missing: str, folder: Path) -> str:
    """Return the error for a builder that needs a module which doesn't exist."""
    parent, _, last = missing.rpartition(".")
    place = folder.joinpath(*parent.split(".")) if parent else folder
    others = {path.stem for path in place.glob("*.py")} | {path.parent.name for path in place.glob("*/*.py")}
    hint = did_you_mean(last, sorted(others - {last}))
    return f"builder {name!r}: no module {missing!r} in {folder}, and none is installed.{hint}"


def name_clash(folder: Path, name: str) -> str:
    """Return what is wrong with the name of the project's top-level module `name`; '' when nothing is.

    Python and TensorFlow import their own modules before any builder. The project's module of the same name is never
    found then, or it replaces one that they import later.
    """
    own = own_module(folder, name)
    # In another clone of the toolkit, its samples are those of the toolkit that runs.
    if own is None or (name == _TOOLKIT and (own / "cli.py").is_file()):
        return ""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if name in sys.stdlib_module_names and name not in _UNUSED:
        kind = "a module of Python's standard library"
    elif name in _OF_TENSORFLOW:
        kind = "a package that TensorFlow imports"
    elif loaded is not None and not is_from(folder, loaded):
        kind = f"a module that is imported already, {loaded.origin}"
    else:
        return ""
    return f"{own} has the name of {kind}. Rename it."


def _spec(name: str, module_name: str, folder: Path) -> ModuleSpec | None:
    """Return where the module is; None when only importing it can tell. Raises BuilderError when it is nowhere."""
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
            raise BuilderError(no_module(name, full, folder) + _elsewhere(parent, parts[0], folder))
        folders = spec.submodule_search_locations
        if folders is None and number < len(parts):
            missing = ".".join(parts[: number + 1])
            raise BuilderError(f"{no_module(name, missing, folder)} {spec.origin} is a module, not a package.")
    return spec


def _elsewhere(parent: ModuleSpec | None, top: str, folder: Path) -> str:
    """Return that Python finds another package of the same name first, if it does."""
    own = own_module(folder, top)
    if parent is None or own is None or is_from(folder, parent):
        return ""
    return f" Python finds the package {parent.origin} before the folder {own}: add {own}/__init__.py."


def _find(full: str, folders: Any) -> ModuleSpec | None:
    if _is_loaded(full):
        return sys.modules[full].__spec__
    for finder in sys.meta_path:
        try:
            if (find_spec := getattr(finder, "find_spec", None)) and (spec := find_spec(full, folders)):
                return spec  # type: ignore[no-any-return]
        except KeyError:
            # Python needs the parent of a folder without __init__.py imported, before it returns a spec of it.
            spec = ModuleSpec(full, None, is_package=True)
            name = full.rpartition(".")[2]
            spec.submodule_search_locations = [str(Path(one) / name) for one in folders if (Path(one) / name).is_dir()]
            return spec
    return None


def _is_loaded(full: str) -> bool:
    return getattr(sys.modules.get(full), "__spec__", None) is not None


def _tree(name: str, spec: ModuleSpec) -> ast.Module | None:
    """Return the parsed text of a module; None when it has none. Raises BuilderError when it isn't valid Python."""
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
    """Return whether the module can define names that its text doesn't show."""
    return any(
        isinstance(node, ast.Global)
        or (isinstance(node, ast.alias) and node.name == "*")
        or getattr(node, "id", None) in _DYNAMIC
        or getattr(node, "attr", None) in _DYNAMIC
        or getattr(node, "name", None) in _DYNAMIC
        for node in ast.walk(tree)
    )


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that a module's statements bind, in whatever block they are."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            # What is inside is local; decorators and defaults can only bind by `:=`.
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
