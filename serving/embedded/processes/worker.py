"""A worker: a process that answers on ports which it shares with others, and loads what the main process says."""

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
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.processes import ports
from tfserving.serving.embedded.processes.channel import Channel
from tfserving.serving.embedded.processes.plan import Plan
from tfserving.serving.embedded.processes.process import end_process, prepare_process
from tfserving.serving.embedded.processes.serving_process import ServingProcess

# How long the main process may take to make the page for Prometheus.
PAGE_SECONDS = 5.0


@dataclass(frozen=True)
class Standing:
    """What the main process sends to its workers every second.

    `names` are the models that are to be served, `trouble` is why the server isn't ready, whatever one worker sees.
    """

    names: frozenset[str] = frozenset()
    trouble: str = ""


class Worker:
    """What the main process calls, and what this one calls there."""

    def __init__(self, plan: Plan, current: Current, connected: socket.socket) -> None:
        self._plan = plan
        self._current = current
        # The main process has a worker prepared before anything else.
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
            # Without the main process nobody says what to load. Threads of TensorFlow may still run.
            ended=lambda: end_process(0),
        )
        self._configuration = _RemoteConfiguration(self._channel, plan.flags.worker_timeout_seconds)

    def prepare(self) -> None:
        """Gets ready to load. Raises StartError."""
        self._serving = ServingProcess(self._plan, self._current, page=self._page)

    def heartbeat(self, standing: Standing) -> None:
        """Returns, which shows that this process works, and keeps what the server's standing is."""
        self._configuration.hear(standing)

    def load(self, model: str, version: int, path: Path) -> None:
        """Loads a version. Raises RequestError."""
        self._serving.load(model, version, path)

    def unload(self, model: str, version: int) -> None:
        """Frees a version, when its last handle is given back."""
        self._serving.unload(model, version)

    def keep(self, number: int, view: View) -> None:
        """Keeps `view`, which counts from when the current number is `number`."""
        self._serving.served.keep(number, view)

    def open(self, standing: Standing) -> None:
        """Answers on the ports. Raises StartError when it can't."""
        self._configuration.hear(standing)
        flags = self._plan.flags
        grpc, rest = (
            ports.claim(flags.host, getattr(flags, flag), flag, shared=True) if getattr(flags, flag) else None
            for flag in ("port", "rest_api_port")
        )
        self._serving.open(self._configuration, grpc, rest)

    def counted(self) -> metrics.Counted:
        """All that was counted here."""
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
    """The configuration, which the main process has; what is read for every probe is here."""

    def __init__(self, channel: Channel, longest_silence: float) -> None:
        self._channel = channel
        self._longest_silence = longest_silence
        self._standing = Standing()
        self._heard = time.monotonic()

    def hear(self, standing: Standing) -> None:
        self._standing, self._heard = standing, time.monotonic()

    @property
    def names(self) -> frozenset[str]:
        """Raises RequestError UNAVAILABLE while the server isn't ready, whatever models there are."""
        if self._standing.trouble:
            raise RequestError(Code.UNAVAILABLE, f"not ready: {self._standing.trouble}")
        silent = time.monotonic() - self._heard
        if silent > self._longest_silence:
            text = f"not ready: nothing was heard of the main process for {silent:.0f} s"
            raise RequestError(Code.UNAVAILABLE, text)
        return self._standing.names

    def apply(self, models: Sequence[Model], seconds: float | None = None) -> None:
        self._channel.call("apply", models, seconds)


def work(plan: Plan, current: Current, connected: socket.socket) -> None:
    """Works until the main process is gone; never returns."""
    # Threads of the main process, which are not here, may have locked what it logs and counts with.
    logging.getLogger().handlers.clear()
    metrics.begin_again()
    prepare_process()
    _worker = Worker(plan, current, connected)
    threading.Event().wait()
