"""A model server in a process of its own, and what tests ask of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import psutil
import pytest

from tests.servers import EMBEDDED, GRPCIO, ModelServer, model_servers
from tfserving.foundation.messages import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    PredictRequest,
    PredictResponse,
)
from tfserving.foundation.tensors import Array, from_proto, to_proto

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 120.0
STOP_SECONDS = 60.0
PREPARED = Path(__file__).with_name("prepared.py")
# Tests of what the real server lacks or does otherwise, and of what is said in words of this project.
embedded_only = pytest.mark.parametrize("engine", [EMBEDDED], indirect=True, ids=["embedded"])
# Tests of what depends on the library that carries gRPC.
both_transports = pytest.mark.parametrize(
    "engine", [*model_servers(), GRPCIO], indirect=True, ids=lambda engine: engine.name
)
both_embedded = pytest.mark.parametrize("engine", [EMBEDDED, GRPCIO], indirect=True, ids=lambda engine: engine.name)
# Tests that ask the shared server, or have servers forked off the one that imported TensorFlow.
together = pytest.mark.xdist_group("servers")


def free_port() -> int:
    """A TCP port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits until `condition` holds; fails with `what` when it doesn't in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


def listener(port: int) -> int:
    """The process that listens on `port`; it may be forked off another one than the one that was started."""
    (pid,) = {
        int(one.pid or 0)
        for one in psutil.net_connections("tcp")
        if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN
    }
    return pid


@contextlib.contextmanager
def prepared(server: ModelServer = EMBEDDED, /, **env: str) -> Iterator[ModelServer]:
    """The embedded server, or the stand-in, forked off a process that has imported TensorFlow in this environment."""
    with tempfile.TemporaryDirectory(prefix="prepared-") as folder:
        path = Path(folder) / "socket"
        forking = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.embedded.prepared", str(path)],
            cwd=ROOT,
            # A process can be forked safely while it has one thread.
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "OPENBLAS_NUM_THREADS": "1", **env},
            # Ctrl-C is for the tests, which then end their servers.
            start_new_session=True,
        )
        try:
            wait_until("TensorFlow's import", lambda: path.exists() or forking.poll() is not None, START_SECONDS)
            assert forking.poll() is None
            module = server.command[-1]
            yield dataclasses.replace(server, command=(sys.executable, str(PREPARED), str(path), module))
        finally:
            forking.terminate()
            forking.wait()


class Process:
    """A model server with the given flags, its output kept."""

    def __init__(
        self,
        *flags: str,
        grpc_port: int | None = None,
        rest_port: int | None = None,
        engine: ModelServer = EMBEDDED,
        log_level: int = 2,
    ) -> None:
        self.engine = engine
        self.grpc_port = grpc_port or free_port()
        self.rest_port = rest_port or free_port()
        self.lines: list[str] = []
        ports = (f"--port={self.grpc_port}", f"--rest_api_port={self.rest_port}")
        self.process = subprocess.Popen(
            [*engine.command, *ports, *engine.flags, *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": str(log_level)},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """All it has printed so far."""
        return "".join(self.lines)

    def says(self, text: str) -> bool:
        """Whether it has printed `text`."""
        return text in self.output

    def ready(self) -> Process:
        """Waits until it serves: the embedded one says so, the real one opens its ports when its models are there."""
        wait_until("serving", lambda: self._serves() or self.process.poll() is not None, START_SECONDS)
        assert self.process.poll() is None, self.output
        return self

    def opened(self, port: int) -> bool:
        """Whether it listens on `port`."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def wait(self, seconds: float = START_SECONDS) -> int:
        """Its exit code, once it ended and all its output is read."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code

    def stop(self) -> None:
        """Ends it, however it is."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.wait()

    def _serves(self) -> bool:
        if self.engine.embedded:
            return self.says("serving: ")
        return self.opened(self.grpc_port) and self.opened(self.rest_port)

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))


Start = Callable[..., Process]


def workers_of(server: Process) -> set[int]:
    """The process ids of a server's workers."""
    children = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    return {int(pid) for listed in children for pid in listed.read_text().split()}


class Gate:
    """A file that requests to the model `saved_models.gated` wait for; they answer OPEN."""

    OPEN = "open"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gate"
        self.path.touch()

    def open(self) -> None:
        """Has the requests answered."""
        part = self.path.with_suffix(".part")
        part.write_text(self.OPEN)
        part.rename(self.path)

    def over_grpc(self, ask: Asker, model: str = "default") -> str:
        """Sends a request that waits; what it answers, or the code of its error."""
        try:
            outputs = ask.predict(model, {"path": np.array([str(self.path).encode()], object)})
        except grpc.RpcError as error:
            return str(error.code().name)
        return bytes(outputs["contents"][0]).decode()

    def over_rest(self, ask: Asker, model: str = "default") -> str:
        """Sends a request that waits; what it answers, or the status of its error."""
        status, document = ask.post(f"{model}:predict", {"inputs": [str(self.path)]})
        return str(document["outputs"][0]) if status == 200 else str(status)


class Asker:
    """Asks a server over both protocols, from any number of threads."""

    def __init__(self, server: Process) -> None:
        self.engine = server.engine
        options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        self.channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=options)
        self.rest = httpx2.Client(
            base_url=f"http://127.0.0.1:{server.rest_port}",
            timeout=60,
            trust_env=False,
            limits=httpx2.Limits(max_connections=None),
        )

    def close(self) -> None:
        """Closes both connections."""
        self.channel.close()
        self.rest.close()

    def call(self, method: str, request: Any, response: Any, seconds: float = 60) -> Any:
        """The answer to one gRPC request."""
        call: Any = self.channel.unary_unary(
            f"/tensorflow.serving.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return call(request, timeout=seconds)

    def predict_raw(self, model: str, inputs: Mapping[str, Array], **spec: Any) -> Any:
        """The PredictResponse for `inputs`."""
        request = PredictRequest()
        request.model_spec.name = model
        _fill(request.model_spec, **spec)
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(to_proto(array))
        return self.call("PredictionService/Predict", request, PredictResponse)

    def predict(self, model: str, inputs: Mapping[str, Array], **spec: Any) -> dict[str, Array]:
        """The outputs for `inputs`, over gRPC."""
        response = self.predict_raw(model, inputs, **spec)
        return {name: from_proto(response.outputs[name]) for name in response.outputs}

    def error(self, model: str, inputs: Mapping[str, Array], **spec: Any) -> tuple[str, str]:
        """The code and the text of the gRPC error that a predict request gets."""
        try:
            response = self.predict_raw(model, inputs, **spec)
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
        raise AssertionError(f"an error was expected, but the answer is {response}")

    def metadata(self, model: str) -> Any:
        """The GetModelMetadataResponse of a model."""
        request = GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = model
        return self.call("PredictionService/GetModelMetadata", request, GetModelMetadataResponse)

    def status(self, model: str) -> dict[int, tuple[str, str]]:
        """The state and the error text of every version of a model, over gRPC."""
        request = GetModelStatusRequest()
        request.model_spec.name = model
        response = self.call("ModelService/GetModelStatus", request, GetModelStatusResponse)
        state = response.DESCRIPTOR.fields_by_name["model_version_status"].message_type.enum_types_by_name["State"]
        return {
            entry.version: (state.values_by_number[entry.state].name, entry.status.error_message)
            for entry in response.model_version_status
        }

    def state(self, model: str, version: int) -> str:
        """The state of one version, or ABSENT."""
        return self.status(model).get(version, ("ABSENT", ""))[0]

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """The status and the document of a REST request; `body` is bytes as they are sent, or a value."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = self.rest.post(f"/v1/models/{path}", content=content)
        return response.status_code, json.loads(response.content)

    def get(self, path: str) -> tuple[int, Any]:
        """The status and the document of a REST request without a body."""
        response = self.rest.get(f"/v1/models/{path}")
        return response.status_code, json.loads(response.content)


def ask_until_refused(server: Process, protocol: str, model: str, answered: list[str], lost: list[Exception]) -> None:
    """Asks a model of `saved_models.scale` over `grpc` or `rest` until the server takes no more.

    Adds the protocol to `answered` for each answer. What is refused before anybody took it is no loss; any other
    failure is, and added to `lost`.
    """
    ask = Asker(server)
    x = np.ones((2, 3), np.float32)
    while True:
        try:
            if protocol == "grpc":
                outputs = ask.predict(model, {"x": x})
                assert outputs["y"].shape == x.shape
            else:
                status, document = ask.post(f"{model}:predict", {"inputs": x.tolist()})
                assert status == 200, document
            answered.append(protocol)
        except httpx2.ConnectError:
            return
        except (grpc.RpcError, httpx2.TransportError, AssertionError) as error:
            # Nobody listens, or did no more before the connection was accepted.
            refused = isinstance(error, grpc.RpcError) and "failed to connect" in (error.details() or "")
            if not refused:
                lost.append(error)
            return


def _fill(spec: Any, *, signature: str = "", version: int | None = None, label: str | None = None) -> None:
    spec.signature_name = signature
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label
