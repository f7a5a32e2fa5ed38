"""A worker: a process that shares its ports with others and loads the versions that the main process names."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfserving.serving.embedded.core.model_config import Model
from tfserving.serving.embedded.core.served import Current
from tfserving.serving.embedded.core.view import View
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.gpu.sessions import Place
from tfserving.serving.embedded.gpu.words import Used
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.processes import ports
from tfserving.serving.embedded.processes.channel import Channel
from tfserving.serving.embedded.processes.plan import Plan
from tfserving.serving.embedded.processes.process import end_process, prepare_process
from tfserving.serving.embedded.processes.serving_process import ServingProcess

# The timeout for the page for Prometheus, which the main process makes.
PAGE_SECONDS = 5.0


@dataclass(frozen=True)
class Standing:
    """The state that the main process sends to its workers every second.

    `names` are the models to serve. `trouble` is why the server as a whole is not ready; empty when it is.
    """

    names: frozenset[str] = frozenset()
    trouble: str = ""


class Worker:
    """The methods that the main process calls, and the calls to the main process."""

    def __init__(self, plan: Plan, current: Current, place: Place, connected: socket.socket) -> None:
        self._plan = plan
        self._place = place
        self._current = current
        # Set by `prepare`, which the main process calls first.
        self._serving: ServingProcess
        methods = (
            self.prepare,
            self.heartbeat,
            self.load,
            self.unload,
            self.keep,
            self.open,
            self.counted,
            self.hold,
            self.refuse,
            self.finish,
        )
        self._channel = Channel(
            connected,
            {method.__name__: method for method in methods},
            # A worker can't work without the main process. Threads of TensorFlow may still run.
            ended=lambda: end_process(0),
        )
        self._configuration = _RemoteConfiguration(self._channel, plan.flags.worker_timeout_seconds)

    def prepare(self) -> Used:
        """Prepares the process for loading; returns what it uses. Raises StartError."""
        self._serving = ServingProcess(self._plan, self._current, page=self._page, place=self._place)
        return self._serving.used

    def heartbeat(self, standing: Standing) -> None:
        """Stores the standing. The return shows that this process works."""
        self._configuration.hear(standing)

    def load(self, model: str, version: int, path: Path) -> None:
        """Loads a version. Raises RequestError."""
        self._serving.load(model, version, path)

    def unload(self, model: str, version: int) -> None:
        """Frees a version when its last handle is released."""
        self._serving.unload(model, version)

    def keep(self, number: int, view: View) -> None:
        """Stores `view`, which becomes current when the shared number is `number`."""
        self._serving.served.keep(number, view)

    def open(self, standing: Standing) -> None:
        """Serves on the ports. Raises StartError when that fails."""
        self._configuration.hear(standing)
        flags = self._plan.flags
        grpc, rest = (
            ports.claim(flags.host, getattr(flags, flag), flag, shared=True) if getattr(flags, flag) else None
            for flag in ("port", "rest_api_port")
        )
        self._serving.open(self._configuration, grpc, rest)

    def counted(self) -> metrics.Counted:
        """Returns all counts of this process."""
        return metrics.counted()

    def hold(self) -> None:
        """See ServingProcess."""
        self._serving.hold()

    def refuse(self, seconds: float) -> None:
        """See ServingProcess."""
        self._serving.refuse(seconds)

    def finish(self, seconds: float) -> int:
        """See ServingProcess."""
        return self._serving.finish(seconds)

    def _page(self) -> bytes:
        page: bytes = self._channel.call("page", seconds=PAGE_SECONDS)
        return page


class _RemoteConfiguration:
    """The configuration, which is in the main process. Probes read the copy that is here."""

    def __init__(self, channel: Channel, longest_silence: float) -> None:
        self._channel = channel
        self._longest_silence = longest_silence
        self._standing = Standing()
        self._heard = time.monotonic()

    def hear(self, standing: Standing) -> None:
        self._standing, self._heard = standing, time.monotonic()

    @property
    def names(self) -> frozenset[str]:
        """The models to serve. Raises RequestError UNAVAILABLE while the server is not ready."""
        if self._standing.trouble:
            raise RequestError(Code.UNAVAILABLE, f"not ready: {self._standing.trouble}")
        silent = time.monotonic() - self._heard
        if silent > self._longest_silence:
            text = f"not ready: the main process has not responded for {silent:.0f} s"
            raise RequestError(Code.UNAVAILABLE, text)
        return self._standing.names

    def apply(self, models: Sequence[Model], seconds: float | None = None) -> None:
        self._channel.call("apply", models, seconds)


def work(plan: Plan, current: Current, place: Place, connected: socket.socket) -> None:
    """Runs a worker until the main process is gone; never returns."""
    # Threads of the main process, which don't exist here, may have locked its log handlers and counters.
    logging.getLogger().handlers.clear()
    metrics.begin_again()
    prepare_process()
    _worker = Worker(plan, current, place, connected)
    threading.Event().wait()
