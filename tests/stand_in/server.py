"""The server's life: the embedded server's, but it ends at once, and in TensorFlow Serving's words."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.stand_in import log
from tests.stand_in.command_line import FAILED
from tests.stand_in.rest import Face
from tests.stand_in.threads import LimitedTransport, loading
from tfserving.serving.config_messages import read_message
from tfserving.serving.embedded import server
from tfserving.serving.embedded.core import configuration, loader, manager
from tfserving.serving.embedded.core.model_config import Model, models_of
from tfserving.serving.embedded.core.source import list_versions
from tfserving.serving.embedded.core.view import State
from tfserving.serving.embedded.errors import RequestError, StartError
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.grpc import transport
from tfserving.serving.embedded.processes import plan, serving_process
from tfserving.serving.embedded.processes.plan import read_plan


class Configuration(configuration.Configuration):
    """Says what it applies whenever it does, changed or not."""

    def _apply(self, models: Sequence[Model], until: float) -> None:
        log.adding(tuple(models))
        assert isinstance(self._manager, Manager)
        self._manager.remember([model.name for model in models if model.name not in self.names])
        super()._apply(models, until)
        log.added()


class ServingProcess(serving_process.ServingProcess):
    """Makes the threads of a load, and logs it. Names no device."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._device = None

    def load(self, model: str, version: int, path: Path) -> None:
        """Loads a version and plays its warm-up. Raises RequestError."""
        servable = _servable(model, version)
        log.loading(servable, path)
        try:
            with loading():
                super().load(model, version, path)
        except RequestError as error:
            log.failed(servable, _status(error))
            raise
        log.loaded(servable)

    def unload(self, model: str, version: int) -> None:
        """Frees a version when its last handle is given back."""
        super().unload(model, version)
        log.unloaded(_servable(model, version))

    def open(self, *arguments: object) -> None:
        """Answers on the ports. Raises StartError when it can't."""
        log.added()
        super().open(*arguments)  # type: ignore[arg-type]
        log.running(self._plan.flags.port, self._plan.flags.rest_api_port)


class Manager(manager.Manager):
    """Fails in TensorFlow Serving's words."""

    # By model the newest version that had ended when it was named again.
    _ended: Mapping[str, int] = {}

    def remember(self, models: Collection[str]) -> None:
        """Keeps what has ended of models that are about to be new ones."""
        with self._changed:
            known = {model: self._models.get(model, {}).values() for model in models}
        ended = {model: [one.number for one in versions if one.state is State.END] for model, versions in known.items()}
        self._ended = {model: max(numbers) for model, numbers in ended.items() if numbers}

    def wait_for_any(self, models: Collection[str], until: float) -> list[str] | None:
        """Takes the state of a version that has ended for that of the new try, as TensorFlow Serving's monitor does.

        https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/core/servable_state_monitor.cc
        """
        if ended := [
            f"{{{_servable(model, self._ended[model])} due to error: OK}}" for model in models if model in self._ended
        ]:
            return ended
        return super().wait_for_any(models, until)

    def failures(self) -> list[str]:
        """Nothing. Raises StartError when a model has no available version."""
        with self._changed:
            unavailable = [
                (version.model, version.number, version.error)
                for known in self._models.values()
                if not any(version.state is State.AVAILABLE for version in known.values())
                for version in known.values()
            ]
        if unavailable:
            listed = "".join(
                f"{_servable(model, number)} due to error: {_status(error)}, " for model, number, error in unavailable
            )
            raise StartError(f"UNKNOWN: {len(unavailable)} servable(s) did not become available: {{{listed}}}")
        return []


def await_versions(model: Model) -> None:
    """Waits, without an end, until there is a version of `model`: all later changes wait, too."""
    while True:
        with contextlib.suppress(OSError):
            if model.policy.choose(list(list_versions(model.base_path))):
                return
        time.sleep(0.1)


# All that is changed of the embedded server: where, what, and what stands there instead.
HABITS = (
    (serving_process, "ServingProcess", ServingProcess),
    (serving_process, "OverGrpcio", LimitedTransport),
    (plan, "choose", lambda _: transport.GRPCIO),
    (serving_process, "RestFace", Face),
    (configuration, "Configuration", Configuration),
    (configuration, "_check_versions", await_versions),
    (manager, "Manager", Manager),
    # A loop keeps the thread that answers, as any other graph does.
    (loader, "has_loops", lambda _: False),
    # At the start.
    (manager, "PARALLEL_LOADS", 4 * (os.cpu_count() or 1)),
)


def serve(flags: Flags) -> int:
    """Serves until a signal ends the process; returns the exit code of a start that fails."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.ExitStack() as stack:
        for place, name, habit in HABITS:
            stack.enter_context(patch.object(place, name, habit))
        try:
            _serve(flags)
        except StartError as error:
            print(f"Failed to start server. Error: {error}", flush=True)
    return FAILED


def _serve(flags: Flags) -> None:
    """Serves. Raises StartError with a status of TensorFlow's when it can't."""
    _check_files(flags)
    try:
        plan = read_plan(flags)
    except StartError as error:
        raise StartError(f"INVALID_ARGUMENT: {error}") from None
    log.adding(plan.models)
    server.Server(plan).run()


# The flags that name text protos, and what these are.
FILES = {
    "model_config_file": "ModelServerConfig",
    "batching_parameters_file": "BatchingParameters",
    "monitoring_config_file": "MonitoringConfig",
    "ssl_config_file": "SSLConfig",
    "tensorflow_session_config_file": "tensorflow.ConfigProto",
}


def _check_files(flags: Flags) -> None:
    """Raises StartError for the first file that isn't there or is no text proto, and for models that can't be."""
    for flag, message in FILES.items():
        path = getattr(flags, flag)
        if path is None:
            continue
        if not path.exists():
            raise StartError(f"NOT_FOUND: {path}; No such file or directory")
        try:
            config = read_message(message, path, flag)
        except StartError:
            raise StartError(f"INVALID_ARGUMENT: Invalid protobuf file: '{path}'") from None
        if flag == "model_config_file":
            try:
                models_of(config.model_config_list)
            except RequestError as error:
                raise StartError(_status(error)) from None


def _servable(model: str, version: int) -> str:
    return f"{{name: {model} version: {version}}}"


def _status(error: RequestError | None) -> str:
    return f"{error.code.name}: {error.text}" if error else "OK"
