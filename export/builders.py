"""Finds and runs builders: the functions that models.yaml names as 'module:function'."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tfserving.export.before_import import find_here, no_function, no_module
from tfserving.export.errors import BuilderError
from tfserving.export.servable import Servable
from tfserving.export.user_code import raised


def find_builder(name: str) -> Callable[[], Any]:
    """The function that 'module:function' names; modules of the current folder are found as installed ones are.

    Raises BuilderError when there is no such module or function, when importing it fails, or when it is no function
    that is called without arguments.
    """
    module_name, _, function_name = name.partition(":")
    module = _import(name, module_name)
    try:
        function = getattr(module, function_name, None)
    except Exception as error:
        # A module's own __getattr__.
        raise BuilderError(
            f"builder {name!r}: {module_name}.__getattr__ raised {raised(error, module=name)}"
        ) from error
    if function is None:
        there = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module_name and not key.startswith("_")
        ]
        raise BuilderError(no_function(name, str(getattr(module, "__file__", None)), there))
    if not callable(function):
        raise BuilderError(f"builder {name!r}: a function without arguments is needed, not a {_kind(function)}")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise BuilderError(
            f"builder {name!r}: a function without arguments is needed, not one that is {error}"
        ) from None
    except ValueError:
        # Something written in C, which doesn't say what it takes.
        pass
    for is_wrong, kind in _NO_FUNCTIONS.items():
        if is_wrong(function):
            raise BuilderError(f"builder {name!r}: a function that returns the servable is needed, not {kind}")
    return function  # type: ignore[no-any-return]


_NO_FUNCTIONS: dict[Callable[[Any], bool], str] = {
    inspect.iscoroutinefunction: "an async one: write `def`, and call what is async with asyncio.run",
    inspect.isgeneratorfunction: "one that yields: write `return`",
    inspect.isasyncgenfunction: "one that yields: write `def` and `return`",
}


def run_builder(name: str, builder: Callable[[], Any]) -> Servable:
    """The checked servable that `builder`, called `name`, makes.

    Raises BuilderError when it raises or returns something else, ServableError when what it declares can't be served.
    """
    try:
        servable = builder()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise BuilderError(f"builder {name!r} raised {raised(error, builder, name)}") from error
    if not isinstance(servable, Servable):
        raise BuilderError(
            f"builder {name!r} returned {_returned(servable)}, a tfserving.export.servable.Servable is needed"
            f"{_instead(servable)}"
        )
    servable.check()
    return servable


def _import(name: str, module_name: str) -> ModuleType:
    find_here()
    try:
        return importlib.import_module(module_name)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        missing = (error.name or module_name) if isinstance(error, ModuleNotFoundError) else ""
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise BuilderError(no_module(name, missing)) from None
        raise BuilderError(f"builder {name!r}: importing it raised {raised(error, module=name)}") from error


def _returned(value: Any) -> str:
    """What a builder returned that is no servable."""
    if value is None:
        return "nothing"
    if type(value).__name__ == Servable.__name__:
        # The same file under another name, as a clone's folder `export` has it.
        return f"a {type(value).__module__}.Servable"
    return f"a {_kind(value)}"


def _instead(value: Any) -> str:
    """What to return for a model that was returned as it is."""
    if not hasattr(value, "variables"):
        return ""
    return (
        ': Servable(model, {"serving_default": Signature(lambda x: {"y": model(x)}, {"x": TensorSpec("float32", '
        '(None, 4))}, ("y",))}, {"serving_default": {"x": examples}}), with your own names, dtype and shape'
    )


def _kind(value: Any) -> str:
    return type(value).__name__
