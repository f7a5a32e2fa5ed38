"""Exports several models, one after the other, with one import of TensorFlow."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from tfserving.export.before_import import look_at
from tfserving.export.builders import find_builder
from tfserving.export.console import import_tensorflow
from tfserving.export.copied import files_of
from tfserving.export.errors import ExportError
from tfserving.export.exporter import Exported, Target, check_as_it_is, export
from tfserving.export.given import check_file
from tfserving.export.mlflow import keras_model
from tfserving.export.mlflow.sources import with_mlflow
from tfserving.export.proof import FreshProcess
from tfserving.export.restores import watch
from tfserving.export.savedmodel import read_signatures
from tfserving.export.user_code import raised
from tfserving.foundation.command.progress import Progress
from tfserving.foundation.user_modules import in_project


@dataclass(frozen=True)
class Outcome:
    """What came of one export: the version, or the error. `started` is False when an input was found to be wrong."""

    exported: Exported | None = None
    error: Exception | None = None
    started: bool = True


def export_all(targets: Sequence[Target]) -> Generator[tuple[Target, Outcome], None, None]:
    """Export `targets`; the error of one is an ExportError, or a RuntimeError for an error of TensorFlow.

    All inputs are checked first, as far as files show it. TensorFlow is imported only when something is left to export.
    """
    with contextlib.ExitStack() as folders:
        checked = []
        for named in targets:
            try:
                target = with_mlflow(named, folders)
                _check_inputs(target)
                checked.append(target)
            except ExportError as error:
                yield named, Outcome(error=error, started=False)
        if checked:
            yield from _export_checked(checked)


def _export_checked(checked: Sequence[Target]) -> Generator[tuple[Target, Outcome], None, None]:
    with contextlib.ExitStack() as processes:
        processes.enter_context(_silent_interrupts())
        with Progress() as progress:
            progress.update("importing TensorFlow")
            ready = processes.enter_context(FreshProcess())
            import_tensorflow()
        # A module may restore a checkpoint when it is imported.
        processes.enter_context(watch())
        builders: dict[str, Callable[[], Any] | None] = {}
        for target in checked:
            try:
                builders[target.model] = _find(target)
            except ExportError as error:
                yield target, Outcome(error=error)
        found = [target for target in checked if target.model in builders]
        for number, target in enumerate(found, 1):
            fresh = ready
            if number < len(found):
                # It imports TensorFlow while this model is exported.
                ready = processes.enter_context(FreshProcess())
            yield target, _export(target, builders[target.model], fresh)


def _check_inputs(target: Target) -> None:
    """Raise ExportError when a file that the target names can't be used, as far as the files show it."""
    if target.builder:
        if not target.mlflow:
            look_at(target.builder, target.project)
    elif target.saved_model:
        check_as_it_is(target)
        files_of(target.saved_model)
        read_signatures(target.saved_model)
    for file in target.golden:
        check_file(file)


def _find(target: Target) -> Callable[[], Any] | None:
    if target.builder is None:
        return None
    if target.mlflow:
        return partial(keras_model.build, target.mlflow.path)
    with Progress() as progress, in_project(target.project), contextlib.redirect_stdout(sys.stderr):
        # The module may print: on a terminal there is no line then that is rewritten.
        if not sys.stderr.isatty():
            progress.update(f"{target.model}: importing {target.builder.partition(':')[0]}")
        return find_builder(target.builder, target.project)


def _export(target: Target, builder: Callable[[], Any] | None, fresh: FreshProcess) -> Outcome:
    try:
        # What a builder prints is no result of the command.
        with Progress() as progress, in_project(target.project), contextlib.redirect_stdout(sys.stderr):
            return Outcome(export(target, builder, fresh, progress))
    except ExportError as error:
        return Outcome(error=error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Outcome(error=ExportError(f"{where}{error.strerror or error}"))
    except Exception as error:
        # An error of TensorFlow or of this toolkit. The other models are still exported.
        return Outcome(error=RuntimeError(f"{raised(error)}\n  raised at {_place(error)}"))


def _place(error: Exception) -> str:
    """Return the file and line that an error comes from."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{frame.filename}:{frame.lineno}, in {frame.name}"


@contextlib.contextmanager
def _silent_interrupts() -> Iterator[None]:
    """Hide stderr after Ctrl-C or SIGTERM until the block ends: TensorFlow prints tracebacks of interrupted calls."""
    stderr = os.dup(2)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        handler = handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.dup2(stderr, 2)
        os.close(stderr)
