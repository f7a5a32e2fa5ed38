"""What every process of this server does first."""

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
from tfserving.serving.embedded.observability.server_log import log_to_stderr


def prepare_process() -> None:
    """Sets up logging, and keeps TensorFlow quiet and light. To be called before it is imported."""
    open_standard_files()
    log_to_stderr()
    # TensorFlow has much to say about how it was built, and about loading as its own server does.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _leave_out_the_api()


def import_tensorflow(*, find_devices: bool = True) -> None:
    """Imports TensorFlow and looks for devices, without what it says about CPUs and GPUs unless it fails.

    What is begun with a device can't be forked: a process that forks others leaves that to them.
    """
    # The collector would look through all that is imported, again and again, and find nothing to free.
    gc.disable()
    try:
        with hidden_stderr():
            _import_core()
            if find_devices:
                from tensorflow.python.eager import context

                # The first look for a GPU complains when there is none.
                context.context().list_physical_devices()
    finally:
        gc.enable()
    # What was imported stays. Looking through it takes a tenth of a second, which the garbage collector would do while
    # a request waits: bodies of JSON make it run often. What is loaded later, and unloaded, it goes on looking through.
    gc.freeze()


def _leave_out_the_api() -> None:
    """Has `tensorflow.python` imported without `tensorflow/__init__.py`, unless TensorFlow is imported already.

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
    """Imports what the server needs, and does what else `tensorflow/__init__.py` does: behavior and plugins."""
    os.environ["TF2_BEHAVIOR"] = "1"
    # First: it loads the library.
    from tensorflow.python import pywrap_tensorflow
    from tensorflow.python.client import session
    from tensorflow.python.compat import v2_compat
    from tensorflow.python.framework import load_library
    from tensorflow.python.saved_model import loader_impl

    del session, loader_impl
    v2_compat.enable_v2_behavior()
    # Devices that TensorFlow doesn't know itself. https://www.tensorflow.org/install/gpu_plugins
    plugins = str(Path(pywrap_tensorflow.__file__).parents[2] / "tensorflow-plugins")
    for place in (plugins, os.environ.get("TF_PLUGGABLE_DEVICE_LIBRARY_PATH")):
        if place and Path(place).exists():
            load_library.load_library(place)
            load_library.load_pluggable_device_library(place)


def end_process(code: int) -> NoReturn:
    """Writes what was logged, within a time limit, and ends the process, whatever its threads do."""
    logging.shutdown()
    os._exit(code)
