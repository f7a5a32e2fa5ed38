"""Records the provenance of a version while it is exported."""

from __future__ import annotations

import platform
import site
import sys
import sysconfig
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from types import ModuleType

import tfserving
from tfserving.export.git import Checkout, GitError, checkout
from tfserving.export.packages import imported_packages
from tfserving.export.provenance import BuilderFile, Platform, Provenance, SourceCommit
from tfserving.export.training_data import with_algorithms
from tfserving.foundation.manifest import TENSORFLOWS
from tfserving.foundation.version_files import sha256_of

_LONGEST = 200


class Origin:
    """The origin of a version, read when its export begins: training may take hours, and the files may change."""

    def __init__(self, builder: str | None, project: Path, note: Callable[[str], None]) -> None:
        """Read the commit and the builder's file.

        `builder` is 'module:function', whose module is imported, or None. `project` is the folder of models.yaml.
        `note` is called when Git refuses to read the repository.
        """
        self._started = _now()
        self._note = note
        module = sys.modules.get(builder.partition(":")[0]) if builder else None
        self._file = _file_of(module)
        self._sha256 = sha256_of(self._file) if self._file else None
        self._module = module
        # An installed builder has no repository, but models.yaml may.
        own = self._file if self._file and not _is_installed(self._file) else None
        self._checkout: Checkout | None = None
        try:
            self._checkout = checkout(project)
            if own and (self._checkout is None or not own.is_relative_to(self._checkout.top)):
                self._checkout = checkout(own.parent)
        except GitError as error:
            self._refused(error)

    def provenance(self, training_data: Mapping[str, str]) -> Provenance:
        """Return what was recorded, with the packages and modules that are imported now."""
        import keras
        import numpy as np
        import tensorflow as tf

        packages = imported_packages()
        if not packages.keys() & set(TENSORFLOWS):
            packages["tensorflow"] = tf.__version__
        packages = {"keras": keras.__version__, "numpy": np.__version__, **packages}
        return Provenance(
            source=self._source(),
            builder_file=self._builder_file(),
            training_data=with_algorithms(training_data),
            toolkit=tfserving.__version__,
            python=platform.python_version(),
            packages=dict(sorted(packages.items())),
            platform=this_platform(),
            started=self._started,
        )

    def _source(self) -> SourceCommit | None:
        if (found := self._checkout) is None:
            return None
        try:
            dirty = found.changed or bool(found.untracked(_modules_below(found.top)))
        except GitError as error:
            self._refused(error)
            return None
        return SourceCommit(repository=found.repository, commit=found.commit, dirty=dirty, path=_printable(found.path))

    def _builder_file(self) -> BuilderFile | None:
        if self._file is None or self._sha256 is None or self._module is None:
            return None
        if self._checkout and self._file.is_relative_to(self._checkout.top):
            path = self._file.relative_to(self._checkout.top).as_posix()
        else:
            # No more of the path than the module's name shows.
            names = self._module.__name__.count(".") + (2 if self._file.stem == "__init__" else 1)
            path = "/".join(self._file.parts[-names:])
        return BuilderFile(path=_printable(path), sha256=self._sha256)

    def _refused(self, error: GitError) -> None:
        self._checkout = None
        self._note(f"the source commit is not recorded: {error}")


@cache
def this_platform() -> Platform:
    """Return what is recorded of this machine."""
    libc = " ".join(platform.libc_ver()).strip()
    return Platform(
        system=platform.system() or "unknown",
        machine=platform.machine() or "unknown",
        libc=libc or None,
        cpu=_cpu(),
    )


def _cpu() -> str | None:
    """Return the model of the processor as Linux shows it; None elsewhere."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            names = (line.partition(":")[2] for line in lines if line.startswith("model name"))
            return _printable(" ".join(next(names, "").split()))[:_LONGEST] or None
    except OSError:
        return None


def _file_of(module: ModuleType | None) -> Path | None:
    """Return the real path of a module's file; None for a module without one, as in a zip file."""
    name = getattr(module, "__dict__", {}).get("__file__")
    path = Path(name).resolve() if isinstance(name, str) else None
    return path if path and path.is_file() else None


def _modules_below(top: Path) -> set[Path]:
    """Return the files below `top` of all imported modules that are not installed."""
    files = set()
    for module in list(sys.modules.values()):
        name = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(name, str) and not name.startswith(_installed()):
            path = Path(name).resolve()
            if path.is_relative_to(top) and not _is_installed(path) and path.is_file():
                files.add(path)
    return files


def _is_installed(file: Path) -> bool:
    return str(file).startswith(_installed())


@cache
def _installed() -> tuple[str, ...]:
    """Return the folders of Python's library and of installed packages, each with a slash at its end."""
    library = [path for name, path in sysconfig.get_paths().items() if name.endswith("lib")]
    folders = [*library, *site.getsitepackages(), site.getusersitepackages()]
    return tuple(sorted({f"{path}/" for folder in folders for path in (Path(folder), Path(folder).resolve())}))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)
