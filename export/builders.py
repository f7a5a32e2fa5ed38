"""Finds and runs builders: the functions that models.yaml names as 'module:function'."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tfserving.export.before_import import name_clash, no_function, no_module
from tfserving.export.errors import BuilderError
from tfserving.export.servable import Servable
from tfserving.export.user_code import raised
from tfserving.foundation.user_modules import own_module


def find_builder(name: str, folder: Path) -> Callable[[], Any]:
    """Return the function that 'module:function' names, in a module of `folder` or an installed one.

    Call it, and the function, inside `in_project(folder)`. Raises BuilderError when the module or the function doesn't
    exist, when importing the module fails, or when the function can't be called without arguments.
    """
    module_name, _, function_name = name.partition(":")
    module = _import(name, module_name, folder)
    try:
        function = getattr(module, function_name, None)
    except Exception as error:
        # A module's own __getattr__.
        raise BuilderError(
            f"builder {name!r}: {module_name}.__getattr__ raised {raised(error, module=name)}"
        ) from error
    if function is None:
        found = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module_name and not key.startswith("_")
        ]
        raise BuilderError(no_function(name, str(getattr(module, "__file__", None)), found))
    if not callable(function):
        raise BuilderError(f"builder {name!r}: expected a function without arguments, got a {_kind(function)}")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise BuilderError(
            f"builder {name!r}: expected a function without arguments; calling this one fails: {error}"
        ) from None
    except ValueError:
        # A function written in C that doesn't describe its arguments.
        pass
    for is_wrong, kind in _WRONG_FUNCTIONS.items():
        if is_wrong(function):
            raise BuilderError(f"builder {name!r}: expected a function that returns a Servable, got {kind}")
    return function  # type: ignore[no-any-return]


_WRONG_FUNCTIONS: dict[Callable[[Any], bool], str] = {
    inspect.iscoroutinefunction: "an async function. Write `def`, and call async code with asyncio.run.",
    inspect.isgeneratorfunction: "a generator. Write `return` instead of `yield`.",
    inspect.isasyncgenfunction: "an async generator. Write `def` and `return`.",
}


def run_builder(name: str, builder: Callable[[], Any]) -> Servable:
    """Return the servable that `builder`, called `name`, returns, after checking its declarations.

    Raises BuilderError when the builder raises or returns something else, ServableError when a declaration is wrong.
    """
    try:
        servable = builder()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise BuilderError(
            f"builder {name!r} raised {raised(error, builder, name)}{_clash_hint(error, Path.cwd())}"
        ) from error
    if not isinstance(servable, Servable):
        raise BuilderError(
            f"builder {name!r} returned {_returned(servable)}, expected a tfserving.export.servable.Servable"
            f"{_instead(servable)}"
        )
    servable.check()
    return servable


def _import(name: str, module_name: str, folder: Path) -> ModuleType:
    try:
        module = importlib.import_module(module_name)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        missing = (error.name or module_name) if isinstance(error, ModuleNotFoundError) else ""
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise BuilderError(no_module(name, missing, folder)) from None
        raise BuilderError(
            f"builder {name!r}: importing it raised {raised(error, module=name)}{_clash_hint(error, folder)}"
        ) from error
    # Loaded from elsewhere: for a builder of another folder, or by TensorFlow.
    top = module_name.partition(".")[0]
    if own_module(folder, top) and (clash := name_clash(folder, top)):
        raise BuilderError(f"builder {name!r}: {clash}")
    return module


def _clash_hint(error: BaseException, folder: Path) -> str:
    """Return what to rename when an error comes from a module whose name Python or TensorFlow uses, else ''."""
    name = ""
    if isinstance(error, ImportError):
        name = error.name or ""
    elif isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        name = error.obj.__name__
    clash = name_clash(folder, name.partition(".")[0]) if name else ""
    return f"\n  {clash}" if clash else ""


def _returned(value: Any) -> str:
    """Return how an error calls the value that a builder returned instead of a servable."""
    if value is None:
        return "nothing"
    if type(value).__name__ == Servable.__name__:
        # The same file under another name, such as `export.servable` in a clone.
        return f"a {type(value).__module__}.Servable"
    return f"a {_kind(value)}"


def _instead(value: Any) -> str:
    """Return what to write for a model that was returned without signatures."""
    if not hasattr(value, "variables"):
        return ""
    return (
        '. Return Servable(model, {"serving_default": Signature(lambda x: {"y": model(x)}, {"x": '
        'TensorSpec("float32", (None, 4))}, ("y",))}, {"serving_default": {"x": examples}}), with your own names, '
        "dtype and shape."
    )


def _kind(value: Any) -> str:
    return type(value).__name__
