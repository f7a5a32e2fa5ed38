"""Servers that tests start as a user does, and waiting without sleeping for luck."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tfserving.foundation.model_server import PROGRAM, find_model_server


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def wait_for(condition: Callable[[], object], seconds: float = 60.0, what: str = "the condition") -> None:
    """Waits until `condition` holds, and fails when `seconds` pass first."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        time.sleep(0.02)


@dataclass(frozen=True)
class ModelServer:
    """A program that is a model server: this project's own or TensorFlow Serving's, and how their ways differ."""

    name: str
    command: tuple[str, ...]
    flags: tuple[str, ...] = ()

    @property
    def embedded(self) -> bool:
        """Whether it is this project's own."""
        return self.name in ("embedded", "grpcio")

    def says(self, text: str, explanation: str) -> str:
        """An error text: the real server doesn't explain what was sent and what is wanted."""
        return f"{text}; {explanation}" if self.embedded else text

    def polls(self, seconds: float) -> str:
        """The flag that has base paths looked at every `seconds`; the real server counts whole seconds."""
        return f"--file_system_poll_wait_seconds={seconds if self.embedded else max(1, round(seconds))}"

    def refused(self, code: int) -> int:
        """The exit code of a start that the embedded server ends with `code`; the real one knows no other than 255."""
        return code if self.embedded else 255


ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = ModelServer("embedded", (sys.executable, "-m", "tfserving.serving.embedded"))
# The same, where gRPC is carried by grpcio: on loopback it is not.
GRPCIO = ModelServer("grpcio", EMBEDDED.command, ("--grpc_transport=grpcio",))
# For tests of what only the real one does: see tests/stand_in/__main__.py.
STAND_IN = ModelServer("native", (sys.executable, "-m", "tests.stand_in"))


def install(server: ModelServer, folder: Path) -> Path:
    """Writes a program called tensorflow_model_server to `folder` that is `server`; returns its path."""
    path = folder / PROGRAM
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.join(server.command)} "$@"\n')
    path.chmod(0o755)
    return path


def model_servers() -> list[ModelServer]:
    """The model servers that this machine has: what a test says of a server holds for each."""
    native = find_model_server()
    return [EMBEDDED, ModelServer("native", (native,))] if native else [EMBEDDED]


@dataclass
class Served:
    """A server that a command started: its ports, and what the command printed."""

    grpc_port: int
    rest_port: int
    process: subprocess.Popen[str]
    output: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def url(self, protocol: str) -> str:
        """Where it answers, over `grpc` or `rest`."""
        return f"grpc://127.0.0.1:{self.grpc_port}" if protocol == "grpc" else f"http://127.0.0.1:{self.rest_port}"


@contextlib.contextmanager
def serve(
    command: list[str], cwd: Path, env: dict[str, str] | None = None, ports: tuple[int, int] | None = None
) -> Iterator[Served]:
    """Runs `command`, a `serving run` in some form, until it says it is ready; Ctrl-C ends it.

    It listens on `ports`, of gRPC and of REST, or on free ones.
    """
    grpc_port, rest_port = ports or free_ports(2)
    environment = {**os.environ, "PORT": str(grpc_port), "REST_PORT": str(rest_port), **(env or {})}
    command = [part.format(port=grpc_port, rest_port=rest_port) for part in command]
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=None, start_new_session=True
    )
    served = Served(grpc_port, rest_port, process, env=environment)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            served.output += line
            if line.startswith("Ctrl-C"):
                break
        else:
            pytest.fail(f"{command} ended with {process.wait()} before it served; it printed:\n{served.output}")
        yield served
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
