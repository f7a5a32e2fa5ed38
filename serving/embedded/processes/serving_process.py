"""One process that loads versions and serves requests for them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from tfserving.foundation.batch_sizes import LARGEST_ON_A_GPU, THREADS_ON_A_GPU
from tfserving.foundation.devices import Device
from tfserving.foundation.tensors import LARGEST_DECLARED
from tfserving.serving.embedded.core import warmup
from tfserving.serving.embedded.core.batch_parameters import own_parameters
from tfserving.serving.embedded.core.batch_warmup import play_sizes
from tfserving.serving.embedded.core.batching import Scheduler
from tfserving.serving.embedded.core.configuration import Reloadable
from tfserving.serving.embedded.core.loader import Batching, Runtime, Servable, load
from tfserving.serving.embedded.core.served import Current, Served
from tfserving.serving.embedded.core.slots import Slots
from tfserving.serving.embedded.core.version_folder import check_files
from tfserving.serving.embedded.core.view import View
from tfserving.serving.embedded.errors import Code, RequestError, StartError
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.gpu import memory
from tfserving.serving.embedded.gpu.found import set_tf32
from tfserving.serving.embedded.gpu.sessions import ALONE, Place, session_config
from tfserving.serving.embedded.gpu.use import use
from tfserving.serving.embedded.gpu.words import Used
from tfserving.serving.embedded.grpc.face import methods
from tfserving.serving.embedded.grpc.handler import Settings
from tfserving.serving.embedded.grpc.over_grpcio import OverGrpcio
from tfserving.serving.embedded.grpc.responses import Reload
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.observability.access_log import AccessLog
from tfserving.serving.embedded.observability.request_log import RequestLog
from tfserving.serving.embedded.processes import ports
from tfserving.serving.embedded.processes.plan import Plan
from tfserving.serving.embedded.processes.process import import_tensorflow
from tfserving.serving.embedded.release import installed
from tfserving.serving.embedded.rest.application import Application
from tfserving.serving.embedded.rest.face import RestFace
from tfserving.serving.embedded.rest.limits import read_limits
from tfserving.serving.embedded.rest.proxies import read_networks
from tfserving.serving.embedded.rest.server import RestServer

log = logging.getLogger(__name__)

# How long a process waits for its logs when it ends.
LOG_SECONDS = 2.0


class Face(Protocol):
    """Serves one protocol."""

    def start(self) -> None:
        """Starts to serve."""

    def hold(self) -> None:
        """Holds responses back, so that clients send no further requests until `refuse` is done."""

    def refuse(self, grace: float) -> None:
        """Accepts no more connections and, where the protocol has a message for that, no more requests."""

    def finish(self, grace: float) -> int:
        """Waits up to `grace` seconds for the requests in flight; returns the number that were cut off."""


class ServingProcess:
    """Loads versions and serves requests for them, as configured by `plan`."""

    def __init__(
        self,
        plan: Plan,
        current: Current | None = None,
        page: Callable[[], bytes] = metrics.page,
        place: Place = ALONE,
    ) -> None:
        """Processes that serve on the same ports share `current`, the number of the current view.

        `page` returns the page for Prometheus. `place` is this process's among those of the server. Raises StartError
        when the request log can't be written, or a GPU has no free memory.
        """
        found = import_tensorflow()
        set_tf32(enabled=plan.flags.enable_tf32)
        self.used = use(plan.flags, plan.session_config, found, place)
        self._session_config = session_config(plan.flags, plan.session_config, self.used.share)
        # The kind of device that responses name; None names none.
        self._device: Device | None = self.used.device
        self._plan = plan
        self._shared = current is not None
        self._page = page
        flags = plan.flags
        self._schedulers = self._make_schedulers()
        self._slots = Slots()
        if flags.enable_version_metrics:
            metrics.count_by_version()
        self._access_log = AccessLog() if flags.access_log else None
        self._request_log = (
            RequestLog(flags.request_log, flags.request_log_sampling_rate, flags.request_log_max_bytes, flags.workers)
            if flags.request_log is not None
            else None
        )
        self._faces: list[Face] = []
        self.served = Served(self._load, current)

    @property
    def processes(self) -> Sequence[Used]:
        """What each process of the server uses: this one."""
        return (self.used,)

    def load(self, model: str, version: int, path: Path) -> None:
        """Loads a version and plays its warm-up. Raises RequestError."""
        self.served.load(model, version, path)

    def unload(self, model: str, version: int) -> None:
        """Frees a version that is in no view any more, when its last handle is released."""
        self.served.unload(model, version)

    def show(self, view: View) -> None:
        """Makes `view` the current view of all requests from now on."""
        self.served.show(view)

    def open(
        self, configuration: Reloadable, grpc_socket: socket.socket | None, rest_socket: socket.socket | None
    ) -> None:
        """Serves on the sockets. Raises StartError when that fails."""
        if grpc_socket is not None:
            self._faces.append(self._grpc(configuration, grpc_socket))
        if rest_socket is not None:
            self._faces.append(self._rest(configuration, rest_socket))
        for face in self._faces:
            face.start()

    def drain(self, seconds: float) -> int:
        """Refuses new requests, and waits up to `seconds` until those in flight are complete.

        Returns the number of requests that were cut off.
        """
        self.hold()
        self.refuse(seconds)
        return self.finish(seconds)

    def hold(self) -> None:
        """The first step of a drain. Processes that share ports take each step when all have taken the previous one.

        Otherwise the clients of a process that refuses would connect to another that is about to refuse.
        """
        for face in self._faces:
            face.hold()

    def refuse(self, seconds: float) -> None:
        """The second step: refuses new requests."""
        for face in self._faces:
            face.refuse(seconds)

    def finish(self, seconds: float) -> int:
        """The last step: waits up to `seconds` until the requests in flight are complete.

        Returns the number of requests that were cut off.
        """
        with ThreadPoolExecutor(len(self._faces) or 1) as pool:
            cut_off: int = sum(pool.map(lambda face: face.finish(seconds), self._faces))
        if self._request_log is not None:
            self._request_log.close(LOG_SECONDS)
        if self._access_log is not None:
            self._access_log.flush(LOG_SECONDS)
        return cut_off

    def _load(self, model: str, version: int, path: Path) -> Servable:
        flags = self._plan.flags
        both = flags.tensorflow_session_parallelism
        runtime = Runtime(
            flags.tensorflow_intra_op_parallelism or both,
            flags.tensorflow_inter_op_parallelism or both,
            flags.enable_signature_method_name_check,
            self._batching_of(path),
            self._session_config,
            tuple(flags.saved_model_tags.split(",")),
            flags.allow_file_and_python_ops,
            flags.check_shapes,
            self._slots,
            flags.max_run_time_in_ms / 1000 or None,
            tuple(part.strip() for part in flags.allowed_operations.split(",") if part.strip()),
        )
        check_files(path)
        try:
            return self._load_warm(model, version, path, runtime)
        except RequestError as error:
            raise memory.gpu_memory.explained(error) from None

    def _load_warm(self, model: str, version: int, path: Path, runtime: Runtime) -> Servable:
        flags = self._plan.flags
        servable = load(model, version, path, runtime)
        if flags.enable_model_warmup:
            times = max(1, flags.num_request_iterations_for_warmup)
            try:
                warmup.play(servable, path, times)
                play_sizes(servable, path, times)
            except BaseException:
                servable.close()
                raise
        servable.end_warm_up()
        return servable

    @property
    def _has_gpu(self) -> bool:
        """Whether this process computes on a GPU."""
        return self.used.share is not None

    def _make_schedulers(self) -> tuple[Scheduler, Scheduler] | None:
        """Returns the scheduler of batches, and the one for graphs with loops; None without batching."""
        if self._plan.batching is None:
            return None
        parameters, threads = self._plan.batching
        if not self._has_gpu:
            threads = threads or os.cpu_count() or 1
            return Scheduler(threads), Scheduler(threads, aside=True)
        threads = threads or THREADS_ON_A_GPU
        if not self._plan.flags.enable_per_model_batching_parameters:
            sizes = ", ".join(map(str, parameters.on_a_gpu().allowed_batch_sizes))
            log.info("batching on the GPU: batches of %s rows, %d at a time", sizes, threads)
        return Scheduler(threads, fills=True), Scheduler(threads, aside=True, fills=True)

    def _threads(self, flag: str) -> int:
        """Returns the most requests at a time. By default batches on a GPU, some that run and wait, have enough."""
        threads: int = getattr(self._plan.flags, flag)
        batched_on_gpu = self._has_gpu and self._plan.batching is not None
        return max(threads, 8 * LARGEST_ON_A_GPU) if batched_on_gpu and threads == getattr(Flags, flag) else threads

    def _batching_of(self, path: Path) -> Batching | None:
        """Returns how the version in `path` is batched, if it is. Raises RequestError when its parameters are wrong."""
        if self._plan.batching is None or self._schedulers is None:
            return None
        common, _ = self._plan.batching
        try:
            own = self._plan.flags.enable_per_model_batching_parameters
            parameters = own_parameters(path) if own else common
        except StartError as error:
            raise RequestError(Code.INVALID_ARGUMENT, str(error)) from None
        if parameters is None:
            return None
        return Batching(*self._schedulers, parameters.on_a_gpu() if self._has_gpu else parameters)

    def _grpc(self, configuration: Reloadable, claimed: socket.socket) -> Face:
        flags = self._plan.flags
        grpc_methods = methods(
            self.served,
            configuration,
            explain=flags.explain_errors,
            tensor_content=flags.enable_serialization_as_tensor_content,
            health=flags.enable_grpc_healthcheck_service,
            request_log=self._request_log,
            largest=flags.max_body_bytes or LARGEST_DECLARED,
            most_parts=flags.max_grpc_parts,
            reload=Reload(flags.enable_reload_config, flags.reload_folders),
        )
        settings = Settings(
            threads=self._threads("grpc_max_threads"),
            eager=flags.enable_batching,
            explain=flags.explain_errors,
            most_in_flight=flags.max_requests_in_flight,
            largest_message=flags.max_body_bytes,
            options=flags.grpc_settings,
            shared=self._shared,
            access_log=self._access_log,
            device=self._device,
        )
        transport: Face
        if self._plan.transport.native:
            from tfserving.serving.embedded.grpc.over_native import OverNative

            transport = OverNative(grpc_methods, *ports.address(claimed), settings)
        else:
            transport = OverGrpcio(
                grpc_methods,
                *ports.address(claimed),
                settings,
                receive_seconds=flags.grpc_receive_timeout_in_ms / 1000 or None,
                tls=self._plan.tls,
                socket_path=flags.grpc_socket_path,
            )
        # gRPC has its own socket on that port now.
        claimed.close()
        return transport

    def _rest(self, configuration: Reloadable, claimed: socket.socket) -> Face:
        flags = self._plan.flags
        face = RestFace(
            self.served,
            wanted=lambda: configuration.names,
            explain=flags.explain_errors,
            metrics_path=self._plan.metrics_path,
            metrics_page=self._page,
            list_models=flags.enable_model_listing,
            request_log=self._request_log,
            largest_body=flags.max_body_bytes,
            most_values=flags.max_json_values,
            most_nested=installed().most_nested,
            device=self._device,
        )
        application = Application(
            face,
            self._threads("rest_api_num_threads"),
            eager=flags.enable_batching,
            cors=flags.rest_api_enable_cors_support,
            most_in_flight=flags.max_requests_in_flight,
            access_log=self._access_log,
            proxies=read_networks(flags.trusted_proxies),
        )
        tls = self._plan.tls if flags.rest_api_enable_tls else None
        return RestServer(application, claimed, read_limits(flags), tls)
