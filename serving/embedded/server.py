"""The lifecycle of the server, from its flags to its exit code.

                ports claimed, models loaded          SIGTERM or SIGINT                  all unloaded
    STARTING ───────────────────────────────► SERVING ─────────────────► DRAINING ──────────────────► exit 0
        │                                                                    │
        ├── a port, the configuration or a model is wrong ───► exit 1, 2     │ a second signal
        └── SIGTERM or SIGINT ───► exit 0, at once                           └────────────────► exit 128 + signal

The ports open in SERVING, so an open port means that the models are available. DRAINING closes them at once and
completes the requests in flight, for at most --drain_seconds. It does not wait for a request that has arrived in part.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from tfserving.serving.embedded.core.model_config import Model
from tfserving.serving.embedded.core.source import Source, describe_contents, list_versions
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.gpu.found import set_environment
from tfserving.serving.embedded.gpu.words import Used, describe
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.processes import ports
from tfserving.serving.embedded.processes.plan import Plan, read_plan
from tfserving.serving.embedded.processes.process import prepare_process

if TYPE_CHECKING:
    from tfserving.serving.embedded.core.configuration import Reloadable
    from tfserving.serving.embedded.core.manager import Manager, Plane

    class Backend(Plane, Protocol):
        """The processes that load versions and serve requests: this one, or several workers."""

        def open(
            self, configuration: Reloadable, grpc_socket: socket.socket | None, rest_socket: socket.socket | None
        ) -> None:
            """Serves on the ports. Raises StartError when that fails."""

        @property
        def processes(self) -> Sequence[Used]:
            """What each process uses."""

        def drain(self, seconds: float) -> int:
            """Refuses new requests, and waits up to `seconds` until those in flight are complete.

            Returns the number of requests that were cut off.
            """


log = logging.getLogger(__name__)

# The longest delay between a signal and its handler.
_SIGNALS_SECONDS = 0.5
# Only a signal ends this wait.
_LONG_SECONDS = 3600.0


def run(flags: Flags) -> int:
    """Serves until a signal stops the server; returns the exit code."""
    prepare_process()
    set_environment(flags)
    try:
        plan = read_plan(flags)
    except StartError as error:
        log.error("%s", error)
        return 2
    server = Server(plan)
    _stop_on_signals(server)
    try:
        return server.run()
    except StartError as error:
        log.error("%s", error)
        return 1


class Server:
    """One embedded server."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._flags = plan.flags
        self._serving = threading.Event()
        self._stopping = threading.Event()

    def stop(self, number: int) -> None:
        """Begins the drain at the first signal, and ends the process at the second. Called by the signal handler."""
        if self._stopping.is_set():
            os._exit(128 + number)
        self._stopping.set()
        if not self._serving.is_set():
            # No request is in flight yet, and nothing else interrupts an import or a load.
            os._exit(0)

    def run(self) -> int:
        """Claims the ports, loads, serves and drains; returns 0. Raises StartError when the start fails."""
        self._wait_for_versions()
        sockets = self._claim("port"), self._claim("rest_api_port")
        backend = self._make_backend()
        _report(backend.processes)
        manager, source = self._load(backend)
        from tfserving.serving.embedded.core.configuration import Configuration

        flags = self._flags
        configuration = Configuration(
            self._plan.models, manager, source, allow_any_label=flags.allow_version_labels_for_unavailable_models
        )
        if flags.model_config_file is not None:
            configuration.follow(flags.model_config_file, flags.model_config_file_poll_wait_seconds)
        self._serving.set()
        backend.open(configuration, *sockets)
        log.info("%s; %s", _ready(self._plan, manager.available()), describe(backend.processes))
        # A signal that arrives just before a wait without timeout doesn't interrupt it: Python runs the handler after
        # the wait.
        while not self._stopping.wait(_SIGNALS_SECONDS):
            pass
        log.info("draining: completing requests in flight, for at most %g s (--drain_seconds)", flags.drain_seconds)
        until = time.monotonic() + flags.drain_seconds
        if cut_off := backend.drain(flags.drain_seconds):
            log.warning("%d request(s) cut off after %g s (--drain_seconds)", cut_off, flags.drain_seconds)
        configuration.stop()
        source.stop()
        # A request that was cut off keeps its version loaded until the process ends.
        manager.stop(max(0.0, until - time.monotonic()))
        log.info("stopped")
        return 0

    def _claim(self, flag: str) -> socket.socket | None:
        """The bound socket of a port; None when the port is turned off. Raises StartError when the port is in use."""
        port = getattr(self._flags, flag)
        if not port:
            return None
        claimed = ports.claim(self._flags.host, port, flag)
        if self._flags.workers > 1:
            claimed.close()
            claimed = ports.claim(self._flags.host, port, flag, shared=True)
        return claimed

    def _make_backend(self) -> Backend:
        # This imports TensorFlow, here or in the workers. All checks that don't need TensorFlow come before.
        if self._flags.workers > 1:
            from tfserving.serving.embedded.processes.workers import Workers

            return Workers(self._plan)
        from tfserving.serving.embedded.processes.serving_process import ServingProcess

        return ServingProcess(self._plan)

    def _wait_for_versions(self) -> None:
        """Waits until every model has a version to load: a volume may be mounted, or filled, later.

        Without further scans of the base paths it waits until the process ends, as TensorFlow Serving does.
        """
        seconds = self._flags.file_system_poll_wait_seconds
        reported = ""
        while trouble := self._missing(scans=seconds >= 0):
            if trouble != reported:
                reported = trouble
                log.warning("waiting for %s", reported)
            if seconds <= 0:
                log.warning(
                    "the base paths are not scanned again (--file_system_poll_wait_seconds=%g). Restart the server "
                    "when every model has a version",
                    seconds,
                )
                while True:
                    time.sleep(_LONG_SECONDS)
            time.sleep(min(seconds, 1))

    def _missing(self, *, scans: bool) -> str:
        """The first model that has no version to load, and why. Without scans no model has one."""
        for model in self._plan.models:
            trouble = _trouble(model) if scans else f"{model.base_path} is not scanned"
            if trouble:
                return f"model {model.name!r}: {trouble}"
        return ""

    def _load(self, backend: Backend) -> tuple[Manager, Source]:
        """Loads the first versions. Raises StartError when no version of a model loads."""
        from tfserving.serving.embedded.core.manager import Manager

        flags, models = self._flags, self._plan.models
        manager = Manager(
            backend, retries=flags.max_num_load_retries, retry_seconds=flags.load_retry_interval_micros / 1e6
        )
        # No version is loaded yet: models have labels here only if labels for unavailable versions are allowed.
        manager.assign_labels({model.name: model.labels for model in models}, allow_unavailable=True)
        source = Source(models, manager.aspire)
        source.poll()
        # A version that fails to load may be repaired or removed before the next try.
        source.start(flags.file_system_poll_wait_seconds)
        manager.wait_until_settled(self._stopping)
        failures = manager.failures()
        if failures:
            raise StartError("\n  ".join((f"{len(failures)} servable(s) did not become available:", *failures)))
        return manager, source


def _trouble(model: Model) -> str:
    """Why a model has no version to load; empty when it has one."""
    try:
        versions = list(list_versions(model.base_path))
    except OSError as error:
        return f"can't read {model.base_path}: {error.strerror}"
    if not versions:
        return f"{model.base_path} contains no version: {describe_contents(model.base_path)}"
    if not model.policy.choose(versions):
        listed, wanted = (", ".join(map(str, some)) for some in (versions, model.policy.specific))
        return f"{model.base_path} contains version {listed}, expected {wanted}"
    return ""


def _report(processes: Sequence[Used]) -> None:
    """Logs the warnings about devices once, and puts the devices on the page for Prometheus."""
    for warning in dict.fromkeys(warning for used in processes for warning in used.warnings):
        log.warning("%s", warning)
    metrics.note_devices({(used.device, name) for used in processes for name in used.names or ("CPU",)})


def _stop_on_signals(server: Server) -> None:
    """Makes the first SIGTERM or SIGINT stop the server, and the second one end the process at once."""

    def stop(number: int, _frame: FrameType | None) -> None:
        server.stop(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def _ready(plan: Plan, available: dict[str, list[int]]) -> str:
    flags = plan.flags
    where = ("gRPC", flags.port, f" ({plan.transport})"), ("REST", flags.rest_api_port, "")
    addresses = [f"{what} on {flags.host}:{port}{how}" for what, port, how in where if port]
    models = [f"{name} {', '.join(map(str, versions))}" for name, versions in available.items()]
    return f"serving: {', '.join(addresses)}; models: {'; '.join(models)}"
