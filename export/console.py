"""What a terminal shows of an export: tables, and none of TensorFlow's messages at start-up."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tfserving.export.devices import prepare_environment, turn_tf32_off
from tfserving.export.fresh import SYSTEM_ALLOCATOR
from tfserving.foundation.stderr import hidden_stderr
from tfserving.foundation.user_modules import without_working_folder

if TYPE_CHECKING:
    from rich.table import Table


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table to print, with its numbers aligned on the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    rows = [tuple(row) for row in rows]
    for number, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        made.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        # Text: names that a user chose are not markup.
        made.add_row(*(Text(str(value)) for value in row))
    made.show_header = any(columns)
    return made


def import_tensorflow() -> None:
    """Import TensorFlow and Keras, and look for devices, without TensorFlow's messages about CPUs and GPUs.

    On a GPU this process computes float32 without TF32, and takes only the memory that it needs. TensorFlow's later
    errors are shown. When the import fails, its messages are shown too.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    prepare_environment()
    # Memory that a builder needs only while it makes its model is given back.
    os.environ.setdefault(*SYSTEM_ALLOCATOR)
    # The garbage collector would search all that is imported again and again, and find nothing to free.
    gc.disable()
    try:
        with _python_stderr(), hidden_stderr(), without_working_folder():
            import keras  # noqa: F401 - builders and the manifest need it
            import tensorflow as tf

            # The first search for a GPU prints an error when there is none. It changes no setting of a builder.
            tf.config.list_physical_devices()
            turn_tf32_off()
    finally:
        gc.enable()
    # Nor does Python search it when the process ends, which takes a second.
    atexit.register(gc.freeze)
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def _python_stderr() -> Iterator[None]:
    """Let Python print to stderr while file descriptor 2, which TensorFlow's C++ code writes to, is hidden."""
    before = sys.stderr
    with os.fdopen(os.dup(2), "w", buffering=1) as stderr:
        sys.stderr = stderr
        try:
            yield
        finally:
            sys.stderr = before
