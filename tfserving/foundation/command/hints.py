"""Commands that messages recommend, as they work when they are pasted here."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from tfserving.foundation.command.errors import CommandError
from tfserving.foundation.command.project import default_fleet

PROGRAM = "tfserving"
SERVER_VARIABLE = "TFSERVING_SERVER"
DEFAULT_SERVER = "grpc://127.0.0.1:8500,http://127.0.0.1:8501"


def typed(words: str, *, fleet: Path | None = None, server: str | None = None) -> str:
    """Return the command line of `tfserving WORDS`, with --fleet and --server where their defaults would be others.

    `words` is inserted as it is: quote what needs it.
    """
    line = f"{_program()} {words}"
    if fleet is not None and not _is_default(fleet):
        line += f" --fleet {shlex.quote(_short(fleet))}"
    if server is not None and server != (os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER):
        line += f" --server {shlex.quote(server)}"
    return line


def _program() -> str:
    """Return the name of this program where PATH has it, else its path, else `python -m tfserving`."""
    script = Path(sys.executable).with_name(PROGRAM)
    found = shutil.which(PROGRAM)
    if found is not None and (not script.exists() or Path(found).resolve() == script.resolve()):
        return PROGRAM
    if script.exists():
        return shlex.quote(_short(script))
    return f"{shlex.quote(_short(Path(sys.executable)))} -m {PROGRAM}"


def _short(path: Path) -> str:
    """Return `path` relative to the working folder when it is inside."""
    here, path = Path.cwd(), path.absolute()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _is_default(fleet: Path) -> bool:
    try:
        return default_fleet().absolute().resolve() == fleet.absolute().resolve()
    except CommandError:
        return False
