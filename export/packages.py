"""The installed packages that this process has imported."""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distributions

# More than any process imports; a manifest has room for them.
MOST = 2000
_NAME = re.compile(r"^Name: *([A-Za-z0-9][A-Za-z0-9._-]{0,99})\s*$", re.MULTILINE)
_VERSION = re.compile(r"^Version: *([A-Za-z0-9.!+_-]{1,100})\s*$", re.MULTILINE)


def imported_packages() -> dict[str, str]:
    """Return the packages of which this process has imported a module, and their versions, sorted by name.

    Names are as on PyPI, in lower case with hyphens. This toolkit is none of them.
    """
    modules = {name for name in list(sys.modules) if sys.modules[name] is not None}
    found: dict[str, str] = {}
    for one in distributions():
        if _is_imported(one, modules):
            # `one.metadata` would parse the package's description, too, which takes most of the time.
            metadata = one.read_text("METADATA") or one.read_text("PKG-INFO") or ""
            name, version = (header.search(metadata) for header in (_NAME, _VERSION))
            if name and version:
                # The first one is the one that is imported.
                found.setdefault(re.sub(r"[-_.]+", "-", name[1]).lower(), version[1])
    found.pop("tfserving", None)
    return dict(sorted(found.items())[:MOST])


def _is_imported(one: Distribution, modules: set[str]) -> bool:
    """Return whether one of `modules` is of this distribution."""
    declared = (one.read_text("top_level.txt") or "").split()
    if declared and not any(name.replace("/", ".") in modules for name in declared):
        return False
    if not (record := one.read_text("RECORD")):
        return bool(declared)
    # Several distributions may have a part of one package, as `google` is: the list of files shows whose it is.
    paths = (line.partition(",")[0] for line in record.splitlines())
    return any(path.endswith(".py") and _module(path) in modules for path in paths)


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
