"""Exporting models that have no version, before they are served."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING

from tfserving.foundation.command.errors import FAILED, WRONG, CommandError
from tfserving.foundation.command.hints import typed
from tfserving.foundation.extras import EXTRAS, missing_extra
from tfserving.serving.commands.options import say

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet


def without_version(fleet: Fleet, names: Sequence[str], *, export: bool) -> tuple[str, ...]:
    """Return the models of `names` that have no version on disk.

    Raises CommandError if there are any and `export` is false, or the extra `export` isn't installed.
    """
    missing = tuple(name for name in names if not fleet.versions(name))
    if missing and not export:
        command = typed(f"export build {' '.join(missing)}", fleet=fleet.file)
        folders = ", ".join(str(fleet.model_folder(name)) for name in missing)
        raise CommandError(f"{_models(missing)} no version in {folders}. Run `{command}`", WRONG)
    if missing:
        for module in EXTRAS["export"]:
            if find_spec(module) is None:
                text = missing_extra(ModuleNotFoundError(name=module), "export", "tfserving export build")
                raise CommandError(f"{_models(missing)} no version, and {text}", WRONG)
    return missing


def export_missing(fleet: Fleet, missing: Sequence[str]) -> None:
    """Export a version of each of the models `missing`, in a process of its own: this one never imports TensorFlow.

    Raises CommandError when that fails.
    """
    if not missing:
        return
    from tfserving.foundation.programs import end_with_parent

    say(f"Exporting {', '.join(missing)} …")
    words = [sys.executable, "-m", "tfserving", "export", "build", "--missing", "--fleet", str(fleet.file), *missing]
    # In a session of its own, it gets the signals of the terminal only once, from here.
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=lambda: end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - it only calls prctl
    )
    code, number = _wait(process)
    if number:
        if code < 0:
            # It was too young to print this itself.
            say("\nStopped.")
        sys.exit(128 + number)
    if code:
        text = f"{', '.join(missing)} could not be exported, so no server was started"
        raise CommandError(text, WRONG if code == WRONG else FAILED)


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int | None]:
    """Return the exit code of a process, and the signal that this process received, and ended it for."""
    received: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        # A Python that starts prints a traceback for SIGINT.
        process.terminate()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, forward)
        return process.wait(), received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _models(names: Sequence[str]) -> str:
    return f"model {names[0]!r} has" if len(names) == 1 else f"the models {', '.join(names)} have"
