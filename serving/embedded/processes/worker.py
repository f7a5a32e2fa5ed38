"""A worker: a process that answers on ports which it shares with others, and loads what the main process says.

`python -m tfserving.serving.embedded.processes.worker CHANNEL CURRENT`, with the numbers of two open files: the socket
to the main process, and the 8 bytes where every worker reads which view counts.
"""

from __future__ import annotations

import mmap
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfserving.serving.embedded.core.model_config import Model
from tfserving.serving.embedded.core.view import View
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.processes import ports
from tfserving.serving.embedded.processes.answerer import Answerer
from tfserving.serving.embedded.processes.channel import Channel
from tfserving.serving.embedded.processes.plan import Plan
from tfserving.serving.embedded.processes.process import end_process, prepare_process


class Worker:
    """What the main process calls, and what this one asks of it."""

    def __init__(self, connected: socket.socket, current: memoryview) -> None:
        self._current = current
        # The main process prepares a worker before anything else.
        self._plan: Plan
        self._answerer: Answerer
        methods = (
            self.prepare,
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

    def prepare(self, plan: Plan) -> None:
        """Gets ready to load. Raises StartError."""
        self._plan = plan
        self._answerer = Answerer(plan, self._current, page=lambda: self._ask("page"))

    def load(self, model: str, version: int, path: Path) -> None:
        """Loads a version. Raises RequestError."""
        self._answerer.load(model, version, path)

    def unload(self, model: str, version: int) -> None:
        """Frees a version, when its last handle is given back."""
        self._answerer.unload(model, version)

    def keep(self, number: int, view: View) -> None:
        """Keeps `view`, which counts from when the current number is `number`."""
        self._answerer.served.keep(number, view)

    def open(self) -> None:
        """Answers on the ports. Raises StartError when it can't."""
        flags = self._plan.flags
        grpc, rest = (
            ports.claim(flags.host, getattr(flags, flag), flag, shared=True) if getattr(flags, flag) else None
            for flag in ("port", "rest_api_port")
        )
        self._answerer.open(_RemoteConfiguration(self._channel), grpc, rest)

    def counted(self) -> metrics.Counted:
        """All that was counted here."""
        return metrics.counted()

    def hold(self) -> None:
        """See Answerer."""
        self._answerer.hold()

    def refuse(self, seconds: float) -> None:
        """See Answerer."""
        self._answerer.refuse(seconds)

    def finish(self, seconds: float) -> int:
        """See Answerer."""
        return self._answerer.finish(seconds)

    def _ask(self, what: str) -> Any:
        return self._channel.call(what)


class _RemoteConfiguration:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @property
    def names(self) -> frozenset[str]:
        names: frozenset[str] = self._channel.call("names")
        return names

    def apply(self, models: Sequence[Model], seconds: float | None = None) -> None:
        self._channel.call("apply", models, seconds)


def main() -> None:
    """Works until the main process is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Whoever ends all processes at once means the main one, which drains the others.
        signal.signal(number, signal.SIG_IGN)
    prepare_process()
    channel, current = map(int, sys.argv[1:])
    _worker = Worker(socket.socket(fileno=channel), memoryview(mmap.mmap(current, 8)).cast("Q"))
    threading.Event().wait()


if __name__ == "__main__":
    main()
