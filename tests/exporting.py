"""Versions that tests export with the real command, in the tests' own process: it imports TensorFlow once.

Beside it there is one fresh process, for one export after the other. The command in a process of its own, its signals
and what it imports are tested in tests/export.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfserving.cli import tfserving
from tfserving.export import check, proof

ROOT = Path(__file__).resolve().parents[1]


class _KeptProcess(proof.FreshProcess):
    """A fresh process that lives on when its `with` statement ends; it ends with this process."""

    def __init__(self) -> None:
        super().__init__()
        atexit.register(super().__exit__, None, None, None)

    def __exit__(self, *_: object) -> None: ...

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None


_kept: list[_KeptProcess] = []


def fresh_process() -> proof.FreshProcess:
    """The fresh process that all exports in this process share."""
    if not _kept or _kept[-1].ended:
        _kept.append(_KeptProcess())
    return _kept[-1]


def run_export(
    folder: Path, *arguments: str, env: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `tfserving export ARGUMENTS` in this process, as if it were typed in `folder`."""
    with typed_in(folder), pytest.MonkeyPatch.context() as patch:
        for module in (check, proof):
            patch.setattr(module, "FreshProcess", fresh_process)
        result = CliRunner(env=env).invoke(tfserving, ["export", *arguments], prog_name="tfserving")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


@contextlib.contextmanager
def typed_in(folder: Path) -> Iterator[None]:
    """Goes to `folder`, whose modules are found meanwhile and forgotten then, and puts back what a command changes."""
    here, path, modules = Path.cwd(), [*sys.path], {*sys.modules}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    os.chdir(folder)
    if str(folder) not in path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        os.chdir(here)
        sys.path[:] = path
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name in {*sys.modules} - modules:
            if _is_of_a_project(sys.modules[name]):
                del sys.modules[name]


def _is_of_a_project(module: object) -> bool:
    """Return whether a module is neither of this repository nor installed: another project may have one of its name."""
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    installed = (ROOT, Path(sys.base_prefix), Path(sys.prefix))
    return bool(file) and not any(Path(str(file)).is_relative_to(place) for place in installed)


def export_scaled(
    fleet: Path, scales: Iterable[int], slow: int | None = None, model: str = "", slowness: float = 1
) -> None:
    """A version of `tests.scaled` for each scale, in the fleet of that file; that of `slow` takes its time.

    Of `model`, or of every model of the fleet. `slowness` says how much time.
    """
    for scale in scales:
        env = {"SCALE": str(scale), "SLOW": str(slowness if scale == slow else 0)}
        done = run_export(ROOT, "build", *filter(None, [model]), "--fleet", str(fleet), env=env)
        assert done.returncode == 0, done.stderr
