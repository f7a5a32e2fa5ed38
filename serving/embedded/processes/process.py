"""What every process of this server does first."""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
from typing import NoReturn

from tfserving.foundation.standard_files import open_standard_files
from tfserving.foundation.stderr import hidden_stderr
from tfserving.serving.embedded.observability.server_log import log_to_stderr


def prepare_process() -> None:
    """Sets up logging, and keeps TensorFlow quiet and light. To be called before it is imported."""
    open_standard_files()
    log_to_stderr()
    # TensorFlow has much to say about how it was built, and about loading as its own server does.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow imports Keras when there is one, and that takes longer than all the rest of TensorFlow. No SavedModel
    # needs it.
    sys.modules["keras"] = None  # type: ignore[assignment]


def import_tensorflow(*, find_devices: bool = True) -> None:
    """Imports TensorFlow and looks for devices, without what it says about CPUs and GPUs unless it fails.

    What is begun with a device can't be forked: a process that forks others leaves that to them.
    """
    _name_temporary_folder()
    with hidden_stderr():
        import tensorflow as tf

        if find_devices:
            # The first look for a GPU complains when there is none.
            tf.config.list_physical_devices()
    # What was imported stays. Looking through it takes a tenth of a second, which the garbage collector would do while
    # a request waits: bodies of JSON make it run often. What is loaded later, and unloaded, it goes on looking through.
    gc.freeze()


def end_process(code: int) -> NoReturn:
    """Writes what was logged, within a time limit, and ends the process, whatever its threads do."""
    logging.shutdown()
    os._exit(code)


def _name_temporary_folder() -> None:
    """Names one where none can be written: TensorFlow's tests, which it imports, ask for the name and no more."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = "/tmp"  # noqa: S108 - nothing is written there
