"""The log of TensorFlow: the time to the microsecond, a letter for the level, and the place in the source."""

from __future__ import annotations

import logging
import os
import sys
from datetime import datetime
from pathlib import Path

from tfserving.serving.embedded.core.model_config import Model
from tfserving.serving.embedded.processes.process import prepare_process

# How many of the levels are not printed.
LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
_LETTERS = dict(zip(_LEVELS, "IWEF", strict=True))
_CORE = "tensorflow_serving/model_servers/server_core.cc"
_SERVER = "tensorflow_serving/model_servers/server.cc"
_SAVED_MODEL = "external/org_tensorflow/tensorflow/cc/saved_model"
_HARNESS = "tensorflow_serving/core/loader_harness.cc"
_log = logging.getLogger("tensorflow_serving")


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")
        place = getattr(record, "place", f"{record.name}:{record.lineno}")
        return f"{time}: {_LETTERS[record.levelno]} {place}] {super().format(record)}"


def begin() -> None:
    """Prepares the process, which prints to the standard error in TensorFlow's format instead of the embedded server's.

    TensorFlow itself, within Python, prints no more than its errors: much of it is nothing of the real server's.
    """
    level = int(os.environ.get(LEVEL) or 0)
    os.environ[LEVEL] = "2"
    prepare_process()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format())
    logging.basicConfig(handlers=[handler], force=True)
    _log.setLevel(_LEVELS[min(level, len(_LEVELS) - 1)])
    # Of the embedded server's own lines those that TensorFlow Serving has in words of its own are left out, and so is
    # what goes as it should.
    logging.getLogger("tfserving").setLevel(logging.ERROR)
    logging.getLogger("tfserving.serving.embedded.core.manager").setLevel(logging.CRITICAL)


def info(place: str, text: str) -> None:
    """Prints a line of the level INFO."""
    _log.info("%s", text, extra={"place": place})


def adding(models: tuple[Model, ...]) -> None:
    """What a configuration that is applied prints, at the start and at every poll."""
    info(f"{_CORE}:474", "Adding/updating models.")
    for model in models:
        info(f"{_CORE}:602", f" (Re-)adding model: {model.name}")


def added() -> None:
    """What it prints when the new models are there."""
    info(f"{_CORE}:508", "Finished adding/updating models")


def loading(servable: str, path: Path) -> None:
    """What a version prints before it loads."""
    info(f"{_HARNESS}:71", f"Approving load for servable version {servable}")
    info(f"{_HARNESS}:79", f"Loading servable version {servable}")
    info(f"{_SAVED_MODEL}/reader.cc:83", f"Reading SavedModel from: {path}")


def loaded(servable: str) -> None:
    """What a version prints that has loaded."""
    info(f"{_SAVED_MODEL}/loader.cc:466", "SavedModel load for tags { serve }; Status: success: OK.")
    info(f"{_HARNESS}:105", f"Successfully loaded servable version {servable}")


def unloaded(servable: str) -> None:
    """What a version prints that is unloaded."""
    info(f"{_HARNESS}:180", f"Done unloading servable version {servable}")


def running(grpc_port: int, rest_port: int) -> None:
    """What a server prints that listens."""
    info(f"{_SERVER}:423", f"Running gRPC ModelServer at 0.0.0.0:{grpc_port} ...")
    if rest_port:
        info(f"{_SERVER}:444", f"Exporting HTTP/REST API at:localhost:{rest_port} ...")


def failed(servable: str, status: str) -> None:
    """What a version prints that does not load."""
    info(f"{_SAVED_MODEL}/loader.cc:466", f"SavedModel load for tags {{ serve }}; Status: fail: {status}.")
    text = f"Loading servable: {servable} failed: {status}"
    _log.error("%s", text, extra={"place": "tensorflow_serving/util/retrier.cc:46"})


def aborting(text: str) -> None:
    """What a check that fails prints before it ends the process."""
    _log.critical("%s", text, extra={"place": "tsl/platform/default/env.cc:74"})
