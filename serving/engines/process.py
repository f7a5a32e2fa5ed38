"""The engines that run a model server as a process of this machine: `native` and `embedded`."""

from __future__ import annotations

import collections
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from clients import Client, connect
from clients.errors import DeadlineExceeded, ServingError, Unavailable
from serving.config import model_config
from serving.engines import EngineError, Plan

NATIVE = "tensorflow_model_server"
DRAIN_SECONDS = 60.0
LAST_LINES = 15
ROOT = Path(__file__).resolve().parents[2]
# Looked up before any fork: a child between fork and exec should do as little as it can.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class ServerProcess:
    """A model server in a process of its own; it ends with the process that started it."""

    def __init__(self, name: str, command: Sequence[str], plan: Plan) -> None:
        self._name = name
        self._plan = plan
        self._ready = False
        self._lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self._folder = tempfile.TemporaryDirectory(prefix="serving-")
        config = Path(self._folder.name, "models.config")
        config.write_text(model_config(plan.fleet, plan.names))
        self._process = subprocess.Popen(
            # The labels' versions are on disk; a server that still loads them would refuse to start.
            [*command, f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models=true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
            # Ctrl-C must reach this process alone, which then drains the server.
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - it calls prctl and no more
            env={"TF_CPP_MIN_LOG_LEVEL": "1", **os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()

    def wait_until_ready(self, seconds: float) -> dict[str, int]:
        """Waits until every model is available and returns their versions. See `serving.engines.Server`."""
        deadline = time.monotonic() + seconds
        versions: dict[str, int] = {}
        try:
            with (
                connect(f"grpc://{self._plan.grpc_address}") as grpc,
                connect(f"http://{self._plan.rest_address}") as rest,
            ):
                for name in self._plan.names:
                    for client in (grpc, rest):
                        versions[name] = self._await(client, name, deadline)
        except BaseException:
            self.stop()
            raise
        self._ready = True
        return versions

    def wait(self) -> int:
        """Waits until the server exits by itself; returns its exit code."""
        code = self._process.wait()
        self._clean()
        return code

    def stop(self) -> int:
        """Drains and ends the server: SIGTERM, and SIGKILL for one that hasn't ended in a minute."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(DRAIN_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self.wait()

    def last_lines(self) -> str:
        """The last lines that the server printed, indented."""
        return "\n".join(f"    {line}" for line in self._lines)

    def _await(self, client: Client, name: str, deadline: float) -> int:
        """Waits for one model over one protocol, noticing meanwhile when the server exits."""
        while True:
            if self._process.poll() is not None:
                self._clean()
                raise EngineError(
                    f"the {self._name} server ended with exit code {self._process.returncode} before every model was "
                    f"available; its last lines:\n{self.last_lines()}"
                )
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise EngineError(
                    f"model {name!r} was not available in time on the {self._name} server (--wait says how long); "
                    f"its last lines:\n{self.last_lines()}"
                )
            try:
                return client.wait_until_available(name, timeout=min(0.5, remaining))
            except (Unavailable, DeadlineExceeded):
                continue
            except ServingError as error:
                raise EngineError(f"model {name!r} can't be served: {error}") from None

    def _follow(self) -> None:
        """Keeps the server's last lines for an error, and shows what it prints once it is ready."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
            if self._ready:
                print(line.rstrip(), file=sys.stderr, flush=True)

    def _clean(self) -> None:
        self._follower.join(timeout=5)
        self._folder.cleanup()


def _end_with_parent() -> None:
    """Has Linux send this process SIGTERM when its parent dies, so that a killed `serving run` leaves no server."""
    if _PRCTL is not None:
        pr_set_pdeathsig = 1
        _PRCTL(pr_set_pdeathsig, signal.SIGTERM)


def _flags(plan: Plan) -> list[str]:
    """The flags that both servers take. A load is not retried: here a model that fails is an error to show at once."""
    return [
        f"--port={plan.grpc_port}",
        f"--rest_api_port={plan.rest_port}",
        "--file_system_poll_wait_seconds=1",
        "--max_num_load_retries=0",
    ]


class Embedded:
    """The server of this project, `python -m serving.embedded`: no installation, any architecture."""

    name = "embedded"

    def unusable(self) -> str | None:
        """None: it needs nothing but this environment."""
        return None

    def start(self, plan: Plan) -> ServerProcess:
        """Starts it on the plan's host and ports."""
        command = [sys.executable, "-m", "serving.embedded", f"--host={plan.host}", *_flags(plan)]
        return ServerProcess(self.name, command, plan)


class Native:
    """TensorFlow Serving's own binary, found on PATH."""

    name = "native"

    def unusable(self) -> str | None:
        """Why it can't be used: it is not on PATH, or doesn't run."""
        path = shutil.which(NATIVE)
        if path is None:
            return f"no {NATIVE} is on PATH"
        try:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{path} doesn't run: {error}"
        if done.returncode != 0:
            return f"{path} --version ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}"
        return None

    def start(self, plan: Plan) -> ServerProcess:
        """Starts it on the plan's ports. It has no flag for an address: it listens on all of them."""
        return ServerProcess(self.name, [NATIVE, *_flags(plan)], plan)
