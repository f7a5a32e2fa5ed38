"""The setup of every process of this server."""

from __future__ import annotations

import gc
import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from tfserving.foundation.standard_files import open_standard_files
from tfserving.foundation.stderr import hidden_stderr
from tfserving.serving.embedded.gpu.found import FoundGpu, find_gpus
from tfserving.serving.embedded.observability.server_log import log_to_stderr


def prepare_process() -> None:
    """Sets up logging, and keeps TensorFlow quiet and small. Call it before TensorFlow is imported."""
    open_standard_files()
    log_to_stderr()
    # TensorFlow logs how it was built, and that the API for loading is deprecated.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _leave_out_the_api()


def import_tensorflow(*, find_devices: bool = True) -> tuple[FoundGpu, ...]:
    """Imports TensorFlow, and returns the GPUs that it can use.

    What TensorFlow prints about CPUs and GPUs is hidden unless it fails. A process that has initialised a device can't
    be forked, so a process that forks workers doesn't look for GPUs.
    """
    gpus: tuple[FoundGpu, ...] = ()
    # The collector would scan all imported objects again and again, and find nothing to free.
    gc.disable()
    try:
        with hidden_stderr():
            _import_core()
            if find_devices:
                # The first search for a GPU logs a complaint when there is none.
                gpus = find_gpus()
    finally:
        gc.enable()
    # Imported objects stay. Scanning them takes the garbage collector a tenth of a second, in which requests wait, and
    # JSON bodies make it run often. It still scans objects that are created later, such as loaded versions.
    gc.freeze()
    return gpus


def _leave_out_the_api() -> None:
    """Makes `tensorflow.python` importable without `tensorflow/__init__.py`, unless TensorFlow is imported already.

    That file imports all of TensorFlow's Python API, and Keras, which takes most of the time. The server needs a
    session and the loader of SavedModels. TensorFlow's own tests import `tensorflow.python` in this way: in its source
    the file is empty, and a build makes it.
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/api_template.__init__.py
    """
    spec = find_spec("tensorflow")
    if "tensorflow" not in sys.modules and spec is not None and spec.submodule_search_locations:
        package = ModuleType("tensorflow")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["tensorflow"] = package


def _import_core() -> None:
    """Imports the parts that the server needs, and sets the behavior and plugins as `tensorflow/__init__.py` does."""
    os.environ["TF2_BEHAVIOR"] = "1"
    # This comes first: it loads the library.
    from tensorflow.python import pywrap_tensorflow
    from tensorflow.python.client import session
    from tensorflow.python.compat import v2_compat
    from tensorflow.python.framework import load_library
    from tensorflow.python.saved_model import loader_impl

    del session, loader_impl
    v2_compat.enable_v2_behavior()
    # Plugins for other devices: https://www.tensorflow.org/install/gpu_plugins
    plugins = str(Path(pywrap_tensorflow.__file__).parents[2] / "tensorflow-plugins")
    for place in (plugins, os.environ.get("TF_PLUGGABLE_DEVICE_LIBRARY_PATH")):
        if place and Path(place).exists():
            load_library.load_library(place)
            load_library.load_pluggable_device_library(place)


def end_process(code: int) -> NoReturn:
    """Writes pending log lines, within a time limit, and ends the process without waiting for its threads."""
    logging.shutdown()
    os._exit(code)
