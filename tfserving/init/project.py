"""The files of a new project, made from the templates beside this module.

A template has sections for some kinds of project: a line `#: KIND KIND` begins one, `#: all` ends it. A file without a
line for a kind is not part of its projects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tfserving.foundation.extras import repository

KINDS = ("function", "keras-file", "saved-model", "checkpoint")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TRAINING = "train.py"
_TEMPLATES = Path(__file__).parent / "templates"
# Files that tools would take for their own, were they called so in this repository.
_CALLED = {"gitignore": ".gitignore", "github": ".github"}
_SECTION = "#: "


def project_files(kind: str, model: str) -> dict[str, str]:
    """Return the text of each file of a project, by its path with `/`."""
    found = {}
    for template in sorted(_TEMPLATES.rglob("*")):
        parts = template.relative_to(_TEMPLATES).parts
        if template.is_file() and "__pycache__" not in parts:
            text = "".join(_lines(template.read_text(encoding="utf-8"), kind))
            if text.strip():
                name = "/".join(_CALLED.get(part, part) for part in parts)
                found[name] = text.replace("__model__", model).replace("__toolkit__", _toolkit())
    return found


def _lines(text: str, kind: str) -> Iterator[str]:
    """Yield the lines of a template that a project of `kind` has."""
    kept = True
    for line in text.splitlines(keepends=True):
        if line.startswith(_SECTION):
            kinds = line.removeprefix(_SECTION).split()
            kept = kind in kinds or kinds == ["all"]
        elif kept:
            yield line


def _toolkit() -> str:
    """Return where other machines get this toolkit: its repository and commit, else a variable to set.

    A URL with a password or a token is not written to a file.
    """
    found = repository()
    return found if found and not re.search(r"https?://[^/]*@|:[^/@]*@", found) else "${TFSERVING}"


def existing(folder: Path, files: Iterable[str]) -> list[str]:
    """Return those of `files` that are in `folder` already."""
    return [name for name in files if os.path.lexists(folder / name)]


def write_project(folder: Path, files: Mapping[str, str]) -> None:
    """Write all `files` into `folder`, which is created when it is missing, or none of them.

    No file is overwritten. Raises OSError.
    """
    made: list[Path] = []
    try:
        for name, text in files.items():
            path = folder / name
            missing = [parent for parent in path.parents if not parent.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            made += reversed(missing)
            with path.open("x", encoding="utf-8") as file:
                made.append(path)
                file.write(text)
    except BaseException:
        for path in reversed(made):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
        raise
