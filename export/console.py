"""What the terminal sees of an export: progress on stderr, and none of TensorFlow's start-up talk."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from tfserving.export.fresh import SYSTEM_ALLOCATOR
from tfserving.foundation.stderr import hidden_stderr

if TYPE_CHECKING:
    from rich.table import Table


class Progress:
    """Says on stderr what happens now, with the seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Prints `text` on a line of its own."""
        click.echo(f"{time.monotonic() - self._start:6.1f} s  {text}", err=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table to print, its numbers on the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    rows = [tuple(row) for row in rows]
    for number, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        made.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        # Text: what a user chose is no markup.
        made.add_row(*(Text(str(value)) for value in row))
    made.show_header = any(columns)
    return made


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for devices, keeping what it says about CPUs and GPUs off the terminal.

    Its errors from then on are shown. When the import fails its talk is shown, too.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # What a builder needed on the way to its model is given back.
    os.environ.setdefault(*SYSTEM_ALLOCATOR)
    # The collector would look through all that is imported, again and again, and find nothing to free.
    gc.disable()
    try:
        with hidden_stderr():
            import tensorflow as tf

            # The first look for a GPU complains when there is none; it changes no setting that a builder may make.
            tf.config.list_physical_devices()
    finally:
        gc.enable()
    # Nor does Python look through it when the process ends, which takes a second.
    atexit.register(gc.freeze)
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
