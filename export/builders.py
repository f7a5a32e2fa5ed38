"""Finds and runs builders: the functions that models.yaml names as 'module:function'."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tfserving.export.errors import BuilderError
from tfserving.export.servable import Servable


def find_builder(name: str) -> Callable[[], Any]:
    """The function that 'module:function' names; modules of the current folder are found as installed ones are.

    Raises BuilderError when there is no such module or function, when importing it fails, or when it needs arguments.
    """
    module_name, _, function_name = name.partition(":")
    module = _import(name, module_name)
    function = getattr(module, function_name, None)
    if function is None:
        there = ", ".join(
            sorted(
                key
                for key, value in vars(module).items()
                if inspect.isfunction(value) and value.__module__ == module_name and not key.startswith("_")
            )
        )
        raise BuilderError(
            f"builder {name!r}: {module.__file__} has no function {function_name!r}; it has {there or 'none'}"
        )
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise BuilderError(
            f"builder {name!r}: a function without arguments is needed, not one that is {error}"
        ) from None
    return function  # type: ignore[no-any-return]


def run_builder(name: str, builder: Callable[[], Any]) -> Servable:
    """The checked servable that `builder`, called `name`, makes.

    Raises BuilderError when it raises or returns something else, ServableError when what it declares can't be served.
    """
    try:
        servable = builder()
    except (Exception, SystemExit) as error:
        raise BuilderError(f"builder {name!r} raised {_describe(error)}") from error
    if not isinstance(servable, Servable):
        raise BuilderError(
            f"builder {name!r} returned a {type(servable).__name__}, a tfserving.export.servable.Servable is needed"
        )
    servable.check()
    return servable


def _import(name: str, module_name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if f"{module_name}.".startswith(f"{missing}."):
            raise BuilderError(
                f"builder {name!r}: there is no module {missing!r}, neither in {here} nor installed"
            ) from None
        raise BuilderError(f"builder {name!r}: importing it raised {_describe(error)}") from error
    except (Exception, SystemExit) as error:
        raise BuilderError(f"builder {name!r}: importing it raised {_describe(error)}") from error


def _describe(error: BaseException) -> str:
    """The error, and the line of the user's code that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "importlib" not in frame.filename]
    text = f"{type(error).__name__}: {error}"
    # The first frame is this module's call.
    return f"{text}\n  at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if len(own) > 1 else text
