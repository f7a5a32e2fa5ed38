"""Workers: processes that share the ports, and change from one view of the versions to the next in the same moment.

          the main process                                     each worker
    manager: load ──────────────────────────────────────► loads and warms up
    all have loaded: AVAILABLE, a new view ─────────────► keeps it
    all keep it: the current number changes ──────────── every request reads the number: one moment for all
    manager: UNLOADING, a view without it, then unload ─► waits for the handles, frees it

A worker answers with a version only when all can, and a request that comes later never meets one that can't. A worker
that ends is replaced by another, which opens its ports once it has loaded what the others have.
"""

from __future__ import annotations

import logging
import mmap
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserving.serving.embedded.core.configuration import Reloadable
from tfserving.serving.embedded.core.model_config import Model
from tfserving.serving.embedded.core.view import View
from tfserving.serving.embedded.errors import EmbeddedError, StartError
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.processes.channel import Channel, ClosedError, Methods
from tfserving.serving.embedded.processes.plan import Plan

log = logging.getLogger(__name__)

# Between the tries to replace a worker: the first wait, doubled each time, and the longest.
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
END_SECONDS = 5.0


@dataclass
class _Member:
    process: subprocess.Popen[bytes]
    channel: Channel


class Workers:
    """Loads versions in `plan.flags.workers` processes, which answer the requests."""

    def __init__(self, plan: Plan) -> None:
        """Starts the processes. Raises StartError when they can't answer as `plan` says."""
        self._plan = plan
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - kept as long as the process
        self._file.truncate(8)
        self._current = memoryview(mmap.mmap(self._file.fileno(), 8)).cast("Q")
        self._view = View({}, {})
        self._loaded: dict[tuple[str, int], Path] = {}
        self._configuration: Reloadable | None = None
        self._members: list[_Member] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        started = [self._start() for _ in range(plan.flags.workers)]
        preparing = [member.channel.begin("prepare", plan) for member in started]
        try:
            for future in preparing:
                future.result()
        except EmbeddedError as error:
            _end(started)
            raise StartError(f"a worker can't start: {error}") from None
        self._members = started

    def load(self, model: str, version: int, path: Path) -> None:
        """Loads a version everywhere, or nowhere. Raises RequestError."""
        with self._lock:
            self._loaded[model, version] = path
            members = list(self._members)
        try:
            _results([member.channel.begin("load", model, version, path) for member in members])
        except EmbeddedError:
            # One that has joined meanwhile may have it, too.
            self.unload(model, version)
            raise

    def unload(self, model: str, version: int) -> None:
        """Frees a version everywhere, when its last handle is given back."""
        with self._lock:
            del self._loaded[model, version]
            members = list(self._members)
        _results([member.channel.begin("unload", model, version) for member in members])

    def show(self, view: View) -> None:
        """Makes `view` what all requests see from now on, in one moment."""
        with self._lock:
            number = self._current[0] + 1
            self._view = view
            _results([member.channel.begin("keep", number, view) for member in self._members])
            self._current[0] = number

    def open(
        self, configuration: Reloadable, grpc_socket: socket.socket | None, rest_socket: socket.socket | None
    ) -> None:
        """Has the workers answer on the ports, which nobody else gets before. Raises StartError when they can't."""
        with self._lock:
            self._configuration = configuration
            members = list(self._members)
        _results([member.channel.begin("open") for member in members])
        for claimed in (grpc_socket, rest_socket):
            if claimed is not None:
                claimed.close()

    def drain(self, seconds: float) -> int:
        """Refuses new requests, and returns when those in flight are answered or `seconds` are over.

        Returns how many requests are cut off.
        """
        self._ending.set()
        with self._lock:
            members = list(self._members)
        # Each step is taken when all have taken the one before: see Answerer.
        _results([member.channel.begin("hold") for member in members])
        _results([member.channel.begin("refuse", seconds) for member in members])
        return sum(_results([member.channel.begin("finish", seconds) for member in members]))

    def _start(self) -> _Member:
        ours, theirs = socket.socketpair()
        with theirs:
            given = (theirs.fileno(), self._file.fileno())
            process = subprocess.Popen(
                [sys.executable, "-m", "tfserving.serving.embedded.processes.worker", *map(str, given)],
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for the main process.
                start_new_session=True,
            )
        methods: Methods = {"page": self._page, "names": self._names, "apply": self._apply}
        return _Member(process, Channel(ours, methods, ended=lambda: self._replace(process)))

    def _replace(self, process: subprocess.Popen[bytes]) -> None:
        """Has another worker take the place of one that ended by itself."""
        code = process.wait()
        with self._lock:
            left = [member for member in self._members if member.process is not process]
            if self._ending.is_set() or len(left) == len(self._members):
                return
            self._members = left
        log.error("a worker ended with exit code %d; another takes its place", code)
        pause = 0.0
        while not self._ending.wait(pause):
            try:
                self._join()
                log.info("a new worker answers in its place")
                return
            except (EmbeddedError, OSError) as error:
                pause = min(max(FIRST_WAIT, 2 * pause), LONGEST_WAIT)
                log.error("no worker takes its place: %s; tried again in %g s", error, pause)

    def _join(self) -> None:
        """Adds a worker that has what the others have. Raises StartError, RequestError or ClosedError."""
        member = self._start()
        try:
            member.channel.call("prepare", self._plan)
            has: dict[tuple[str, int], Path] = {}
            while not self._joined(member, has):
                wanted = dict(self._loaded)
                for model, version in has.keys() - wanted.keys():
                    member.channel.call("unload", model, version)
                    del has[model, version]
                for (model, version), path in wanted.items():
                    if (model, version) not in has:
                        member.channel.call("load", model, version, path)
                        has[model, version] = path
        except EmbeddedError:
            _end([member])
            raise

    def _joined(self, member: _Member, has: dict[tuple[str, int], Path]) -> bool:
        """Makes one of the others of a worker that has all they have, or answers False."""
        with self._lock:
            if has != self._loaded:
                return False
            if not self._ending.is_set():
                member.channel.call("keep", self._current[0], self._view)
                if self._configuration is not None:
                    member.channel.call("open")
                self._members.append(member)
            return True

    def _page(self) -> bytes:
        with self._lock:
            members = list(self._members)
        return metrics.page(_results([member.channel.begin("counted") for member in members]))

    def _names(self) -> frozenset[str]:
        return self._configuration.names if self._configuration else frozenset()

    def _apply(self, models: Sequence[Model], seconds: float | None) -> None:
        assert self._configuration is not None
        self._configuration.apply(models, seconds)


def _results(futures: Sequence[Future[Any]]) -> list[Any]:
    """What all answered but those that are gone, when all have. Raises the first error."""
    wait(futures)
    return [future.result() for future in futures if not isinstance(future.exception(), ClosedError)]


def _end(members: Sequence[_Member]) -> None:
    for member in members:
        member.channel.close()
    for member in members:
        try:
            member.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            member.process.kill()
            member.process.wait()
