"""The user's own modules, such as a builder: found in the project's folder first, whatever the working folder is."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

# Packages at the top of a clone of this toolkit. An editable install puts the clone on sys.path.
CLONE = ("clients", "docs", "export", "k8s", "serving", "tests")


class _OwnFolders:
    """Finds a folder of the project that has the name of a package of the clone.

    Without it Python prefers the clone's package to a folder that has no __init__.py.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: object = None, _target: object = None) -> ModuleSpec | None:
        """Return the spec of the project's folder; None for any other module."""
        if path is None and name in CLONE and (self._folder / name).is_dir():
            return PathFinder.find_spec(name, [str(self._folder)])
        return None


@contextlib.contextmanager
def in_project(folder: Path) -> Iterator[None]:
    """Run the block with `folder` as the working folder and as the first place where modules are found."""
    here, entry, finder = Path.cwd(), str(folder), _OwnFolders(folder)
    os.chdir(folder)
    sys.path.insert(0, entry)
    sys.meta_path.insert(0, finder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)
        os.chdir(here)


@contextlib.contextmanager
def without_working_folder() -> Iterator[None]:
    """Run the block without modules of the working folder, which `python -m` and PYTHONPATH put on sys.path.

    A module there can have the name of one that TensorFlow imports.
    """
    before = [*sys.path]
    here = Path.cwd()
    sys.path[:] = [entry for entry in before if entry and Path(entry).absolute() != here]
    try:
        yield
    finally:
        sys.path[:] = before


def own_module(folder: Path, name: str) -> Path | None:
    """Return the file or folder of the top-level module `name` in `folder`; None when there is none."""
    package = folder / name
    if (package / "__init__.py").is_file() or any(package.glob("*.py")):
        return package
    return file if (file := folder / f"{name}.py").is_file() else None


def is_from(folder: Path, spec: ModuleSpec | None) -> bool:
    """Return whether the module of `spec` is in `folder`."""
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    return any(place and Path(place).resolve().is_relative_to(folder.resolve()) for place in places)
