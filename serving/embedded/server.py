"""The server's life, from its flags to its exit code.

                ports claimed, models loaded          SIGTERM or SIGINT                  all unloaded
    STARTING ───────────────────────────────► SERVING ─────────────────► DRAINING ──────────────────► exit 0
        │                                                                    │
        ├── a port, the configuration or a model is wrong ───► exit 1, 2     │ a second signal
        └── SIGTERM or SIGINT ───► exit 0                                    └────────────────► exit 128 + signal

Ports open only when SERVING, so that an open port means that the models are there. DRAINING closes them at once and
answers what is in flight.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from serving.embedded import ports
from serving.embedded.batching import Parameters, Scheduler, read_parameters
from serving.embedded.config_messages import read_message
from serving.embedded.errors import Code, RequestError, StartError
from serving.embedded.flags import Flags
from serving.embedded.model_config import Model, read_config, single_model
from serving.embedded.source import Source, list_versions
from serving.embedded.tls import Tls, read_tls

if TYPE_CHECKING:
    from serving.embedded.configuration import Configuration
    from serving.embedded.loader import Batching, Servable
    from serving.embedded.manager import Manager

log = logging.getLogger(__name__)


class Face(Protocol):
    """What answers one protocol."""

    def start(self) -> None:
        """Begins to answer."""

    def stop(self, grace: float) -> None:
        """Refuses new requests at once, and returns when those in flight are answered or `grace` seconds are over."""


# Long enough for any request; who can't wait sends a second signal.
DRAIN_SECONDS = 3600.0
METRICS_PATH = "/monitoring/prometheus/metrics"
OWN_PARAMETERS = "batching_params.pbtxt"


def run(flags: Flags) -> int:
    """Serves until a signal says otherwise; returns the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    # TensorFlow has much to say about how it was built, and about loading as its own server does.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        models = _models(flags)
        batching = _batching(flags)
        metrics_path = _metrics_path(flags)
        tls = read_tls(flags.ssl_config_file) if flags.ssl_config_file is not None else None
    except StartError as error:
        _say(f"error: {error}")
        return 2
    stopping = _stop_on_signals()
    try:
        return Server(flags, models, stopping, batching, metrics_path, tls).run()
    except StartError as error:
        _say(f"error: {error}")
        return 1


class Server:
    """One embedded server; `stopping` is set when it should drain."""

    def __init__(
        self,
        flags: Flags,
        models: Sequence[Model],
        stopping: threading.Event,
        batching: tuple[Parameters, int] | None = None,
        metrics_path: bytes | None = None,
        tls: Tls | None = None,
    ) -> None:
        """`batching` is how requests are batched and by how many threads, `metrics_path` where Prometheus asks."""
        self._tls = tls
        self._flags = flags
        self._batching = batching
        self._scheduler = Scheduler(batching[1]) if batching else None
        self._metrics_path = metrics_path
        self._session_config: bytes = b""
        self._models = models
        self._stopping = stopping

    def run(self) -> int:
        """Claims the ports, loads, serves and drains; returns 0. Raises StartError when it can't serve."""
        flags = self._flags
        self._wait_for_versions()
        if self._stopping.is_set():
            return 0
        grpc_socket = ports.claim(flags.host, flags.port, "port") if flags.port else None
        rest_socket = ports.claim(flags.host, flags.rest_api_port, "rest_api_port") if flags.rest_api_port else None
        manager, source = self._load()
        from serving.embedded.configuration import Configuration

        configuration = Configuration(
            self._models, manager, source, allow_any_label=flags.allow_version_labels_for_unavailable_models
        )
        if flags.model_config_file is not None:
            configuration.follow(flags.model_config_file, flags.model_config_file_poll_wait_seconds)
        if not self._stopping.is_set():
            self._serve(manager, configuration, grpc_socket, rest_socket)
        configuration.stop()
        source.stop()
        manager.stop(DRAIN_SECONDS)
        return 0

    def _wait_for_versions(self) -> None:
        """Waits until every model has a version to load, as long as base paths are looked at again.

        A volume may be mounted, or filled, later. Raises StartError when they are not looked at again.
        """
        seconds = self._flags.file_system_poll_wait_seconds
        said = ""
        while True:
            try:
                for model in self._models:
                    _check_base_path(model)
                return
            except StartError as error:
                if seconds <= 0:
                    raise
                if str(error) != said:
                    said = str(error)
                    _say(f"waiting: {said}")
            if self._stopping.wait(min(seconds, 1)):
                return

    def _load(self) -> tuple[Manager, Source]:
        """Loads the first versions. Raises StartError when a model has none that loads."""
        # This imports TensorFlow, after everything that can be known without it.
        from serving.embedded.loader import read_session_config
        from serving.embedded.manager import Manager

        flags = self._flags
        if flags.tensorflow_session_config_file is not None:
            self._session_config = read_session_config(flags.tensorflow_session_config_file)
        manager = Manager(
            self._load_version,
            retries=flags.max_num_load_retries,
            retry_seconds=flags.load_retry_interval_micros / 1e6,
        )
        # Nothing is loaded yet, so there are labels only where they may name anything.
        manager.assign_labels({model.name: model.labels for model in self._models}, allow_unavailable=True)
        source = Source(self._models, manager.aspire)
        source.poll()
        manager.wait_until_settled(self._stopping)
        failures = manager.failures()
        if failures and not self._stopping.is_set():
            raise StartError("\n  ".join((f"{len(failures)} servable(s) did not become available:", *failures)))
        source.start(flags.file_system_poll_wait_seconds)
        return manager, source

    def _load_version(self, model: str, version: int, path: Path) -> Servable:
        from serving.embedded import warmup
        from serving.embedded.loader import Runtime, load

        flags = self._flags
        both = flags.tensorflow_session_parallelism
        runtime = Runtime(
            flags.tensorflow_intra_op_parallelism or both,
            flags.tensorflow_inter_op_parallelism or both,
            flags.enable_signature_method_name_check,
            self._batching_of(path),
            self._session_config,
            tuple(flags.saved_model_tags.split(",")),
        )
        servable = load(model, version, path, runtime)
        if flags.enable_model_warmup:
            try:
                warmup.play(servable, path, max(1, flags.num_request_iterations_for_warmup))
            except BaseException:
                servable.close()
                raise
        return servable

    def _batching_of(self, path: Path) -> Batching | None:
        """How the version in `path` is batched. Raises RequestError when its own parameters are wrong."""
        from serving.embedded.loader import Batching

        if self._batching is None or self._scheduler is None:
            return None
        parameters, _ = self._batching
        own = path / OWN_PARAMETERS
        if self._flags.enable_per_model_batching_parameters and own.is_file():
            try:
                parameters, _ = read_parameters(own, OWN_PARAMETERS)
            except StartError as error:
                raise RequestError(Code.INVALID_ARGUMENT, str(error)) from None
        return Batching(self._scheduler, parameters)

    def _serve(
        self,
        manager: Manager,
        configuration: Configuration,
        grpc_socket: socket.socket | None,
        rest_socket: socket.socket | None,
    ) -> None:
        """Opens the ports, waits until it should stop, and drains."""
        faces: list[Face] = []
        if grpc_socket is not None:
            faces.append(self._grpc(manager, configuration, grpc_socket))
        if rest_socket is not None:
            faces.append(self._rest(manager, configuration, rest_socket))
        for face in faces:
            face.start()
        _say(_ready(self._flags, manager.available()))
        self._stopping.wait()
        _say("draining: requests in flight are answered, new ones are refused")
        draining = [threading.Thread(target=face.stop, args=(DRAIN_SECONDS,)) for face in faces]
        for thread in draining:
            thread.start()
        for thread in draining:
            thread.join()

    def _grpc(self, manager: Manager, configuration: Configuration, claimed: socket.socket) -> Face:
        from serving.embedded.grpc_face import GrpcTransport, methods

        flags = self._flags
        answers = methods(
            manager,
            configuration,
            explain=flags.explain_errors,
            tensor_content=flags.enable_serialization_as_tensor_content,
            health=flags.enable_grpc_healthcheck_service,
        )
        transport = GrpcTransport(
            answers,
            *ports.address(claimed),
            threads=flags.grpc_max_threads,
            explain=flags.explain_errors,
            most_in_flight=flags.max_requests_in_flight,
            largest_message=flags.max_body_bytes,
            tls=self._tls,
            socket_path=flags.grpc_socket_path,
            settings=dict(
                argument.partition("=")[::2] for argument in filter(None, flags.grpc_channel_arguments.split(","))
            ),
        )
        # gRPC has a socket of its own on that port now.
        claimed.close()
        return transport

    def _rest(self, manager: Manager, configuration: Configuration, claimed: socket.socket) -> Face:
        from serving.embedded.rest_face import RestFace
        from serving.embedded.rest_server import RestServer

        flags = self._flags
        face = RestFace(
            manager,
            flags.rest_api_num_threads,
            explain=flags.explain_errors,
            cors=flags.rest_api_enable_cors_support,
            metrics_path=self._metrics_path,
            list_models=flags.enable_model_listing,
            wanted=lambda: configuration.names,
            most_in_flight=flags.max_requests_in_flight,
            largest_body=flags.max_body_bytes,
            seconds=flags.rest_api_timeout_in_ms / 1000 or None,
        )
        return RestServer(face, claimed, self._tls if flags.rest_api_enable_tls else None)


def _models(flags: Flags) -> Sequence[Model]:
    """The models that the flags name. Raises StartError when their configuration is wrong."""
    if flags.model_config_file is not None:
        models = read_config(flags.model_config_file)
    else:
        models = (single_model(flags.model_name, flags.model_base_path or Path()),)
    for model in models:
        if model.labels and not flags.allow_version_labels_for_unavailable_models:
            label, version = next(iter(model.labels.items()))
            raise StartError(
                f"model {model.name!r}: label {label!r} is for version {version}, which is not loaded at the start; "
                "--allow_version_labels_for_unavailable_models accepts that"
            )
    return models


def _batching(flags: Flags) -> tuple[Parameters, int] | None:
    """How requests are batched, and by how many threads. Raises StartError when the file says nonsense."""
    if not flags.enable_batching:
        return None
    parameters, threads = Parameters(), None
    if flags.batching_parameters_file is not None:
        parameters, threads = read_parameters(flags.batching_parameters_file)
    return parameters, threads or os.cpu_count() or 1


def _metrics_path(flags: Flags) -> bytes | None:
    """Where REST has the page for Prometheus. Raises StartError when the file says nonsense."""
    if flags.monitoring_config_file is None:
        return None
    config = read_message("MonitoringConfig", flags.monitoring_config_file, "--monitoring_config_file")
    if not config.prometheus_config.enable:
        return None
    path = config.prometheus_config.path or METRICS_PATH
    if not path.startswith("/"):
        raise StartError(f"--monitoring_config_file={flags.monitoring_config_file}: path {path!r} must begin with /")
    return str(path).encode()


def _check_base_path(model: Model) -> None:
    where = f"model {model.name!r}: base path {model.base_path}"
    try:
        versions = list(list_versions(model.base_path))
    except OSError as error:
        raise StartError(f"{where}: {error.strerror}") from None
    if not versions:
        raise StartError(f"{where} has no version; a version is a folder whose name is an integer")
    if not model.policy.choose(versions):
        raise StartError(f"{where} has versions {versions}, none of those wanted: {list(model.policy.specific)}")


def _stop_on_signals() -> threading.Event:
    """An event that the first SIGTERM or SIGINT sets; the second one ends the process at once."""
    stopping = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return stopping


def _ready(flags: Flags, available: dict[str, list[int]]) -> str:
    addresses = [
        f"{what} on {flags.host}:{port}" for what, port in (("gRPC", flags.port), ("REST", flags.rest_api_port)) if port
    ]
    models = [f"{name} {', '.join(map(str, versions))}" for name, versions in available.items()]
    return f"serving: {', '.join(addresses)}; models: {'; '.join(models)}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
