"""`serve` with TensorFlow Serving, or what stands in for it: what becomes of requests when it is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.servers import ROOT, free_ports, wait_for
from tests.serving.embedded import saved_models
from tests.serving.embedded.running import Gate
from tfserving.clients import Client, connect
from tfserving.clients.errors import ServingError
from tfserving.foundation.model_server import VARIABLE, find_model_server

CUT_OFF = "cut off"


@dataclass
class Command:
    """`serve` of a model whose requests are answered when the gate opens, and a request that waits there."""

    process: subprocess.Popen[str]
    gate: Gate
    grpc: Client
    rest: Client
    pool: ThreadPoolExecutor

    def processes(self) -> list[psutil.Process]:
        """The script and the server."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def request(self, client: Client | None = None) -> Future[str]:
        """Sends one, over gRPC unless told otherwise, and returns when it is in flight."""
        server = self.processes()[-1]

        def computed() -> float:
            return sum(server.cpu_times()[:2])

        # Sending and reading it take less.
        enough = computed() + 0.5
        sent = self.pool.submit(self._predict, client or self.grpc)
        wait_for(lambda: computed() > enough, what="a request in flight")
        return sent

    def _predict(self, client: Client) -> str:
        try:
            path = np.array([str(self.gate.path).encode()], object)
            outputs = client.predict("gated", {"path": path}, timeout=60).outputs
        except ServingError:
            return CUT_OFF
        return bytes(outputs["contents"][0]).decode()

    def await_line(self, text: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if text in line:
                return
        pytest.fail(f"it ended without {text!r}")


Start = Callable[..., Command]


def alive(process: psutil.Process) -> bool:
    """One that has ended stays a zombie where its new parent doesn't ask for its code."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    saved_models.gated(folder / "gated")
    return folder


@pytest.fixture
def start(models: Path, tmp_path: Path, stand_in: Path) -> Iterator[Start]:
    """Starts it with settings of `server:` in models.yaml."""
    fleet = tmp_path / "models.yaml"
    with contextlib.ExitStack() as stack:

        def start(settings: str = "{}") -> Command:
            said = "models: {gated: {builder: 'nobody:builds'}}"
            fleet.write_text(f"folder: {models}\n{said}\nserver: {settings}\n")
            port, rest_port = free_ports(2)
            ports = ("--port", str(port), "--rest-port", str(rest_port))
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tfserving", "serve", "--engine", "native", *ports],
                    cwd=tmp_path,
                    env={**os.environ, VARIABLE: find_model_server() or str(stand_in), "PYTHONPATH": str(ROOT)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            printed = ""
            for line in process.stdout:
                printed += line
                if line.startswith("Ctrl-C"):
                    break
            else:
                pytest.fail(printed + process.communicate()[1])
            gate = Gate(tmp_path)
            grpc = stack.enter_context(connect(f"grpc://127.0.0.1:{port}"))
            rest = stack.enter_context(connect(f"http://127.0.0.1:{rest_port}"))
            pool = stack.enter_context(ThreadPoolExecutor())
            stack.callback(gate.open)
            return Command(process, gate, grpc, rest, pool)

        yield start


def test_ctrl_c_waits_for_requests_in_flight(start: Start) -> None:
    command = start()
    sent = [command.request(command.grpc), command.request(command.rest)]
    command.process.send_signal(signal.SIGINT)
    command.await_line("Draining. Ctrl-C again stops it at once …")
    command.await_line("Draining: waiting for requests in flight, at most 60 s …")
    with pytest.raises(subprocess.TimeoutExpired):
        command.process.wait(2.5)
    command.gate.open()
    assert [one.result() for one in sent] == [Gate.OPEN] * 2
    _, errors = command.process.communicate(timeout=30)
    assert errors.endswith("Stopped.\n")
    assert command.process.returncode == 0


def test_a_server_without_requests_ends_soon_though_clients_are_connected(start: Start) -> None:
    """It polls its folders meanwhile."""
    command = start()
    command.grpc.status("gated")
    command.rest.status("gated")
    began = time.monotonic()
    command.process.send_signal(signal.SIGTERM)
    _, errors = command.process.communicate(timeout=30)
    assert errors.endswith("Stopped.\n")
    assert time.monotonic() - began < 4


def test_what_takes_longer_than_drain_seconds_is_cut_off_and_that_is_reported(start: Start) -> None:
    command = start("{drain_seconds: 1}")
    sent = command.request()
    command.process.send_signal(signal.SIGINT)
    command.await_line("Draining: 1 s are over. Requests in flight are cut off.")
    assert sent.result() == CUT_OFF
    assert command.process.wait(30) == 0


def test_a_second_ctrl_c_stops_it_at_once(start: Start) -> None:
    command = start()
    sent = command.request()
    processes = command.processes()
    command.process.send_signal(signal.SIGINT)
    command.await_line("Draining: waiting for requests in flight")
    command.process.send_signal(signal.SIGINT)
    _, errors = command.process.communicate(timeout=10)
    assert errors.endswith("Requests in flight are cut off.\n\nStopped.\n")
    assert command.process.returncode == 130
    assert sent.result() == CUT_OFF
    assert not any(map(alive, processes))


@pytest.mark.parametrize("killed", ["command", "script"])
def test_neither_a_server_nor_its_script_outlives_what_started_it(start: Start, killed: str) -> None:
    """With a request in flight: nobody is there any more to wait for it."""
    command = start()
    sent = command.request()
    script, server = command.processes()
    (script if killed == "script" else command.process).kill()
    wait_for(lambda: not alive(script) and not alive(server), 10, "their end")
    assert sent.result() == CUT_OFF
    assert command.process.wait(10) == (1 if killed == "script" else -signal.SIGKILL)
