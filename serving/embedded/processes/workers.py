"""Workers: processes that share the ports and switch from one view of the versions to the next at the same moment.

          the main process                                     each worker
    manager: load, in one, then in the others ──────────► loads and warms up
    all have loaded: AVAILABLE, a new view ─────────────► stores it
    all have it: the current number changes ──────────── every request reads the number: one moment for all
    manager: UNLOADING, a view without it, then unload ─► waits for the handles, frees it

A worker serves a version only when all workers can. So a client never gets a version that another worker lacks.

                   has loaded what the others have          ended, or killed because it hangs
    forked: JOINING ───────────────────────────────► SERVING ──────────────────────────────► gone: another one is forked
               │                                                                                ▲
               └── ended, or can't load: another one is forked, after growing pauses ───────────┘

The main process never waits longer for a worker that hangs than the heartbeat lets it live.
"""

from __future__ import annotations

import logging
import mmap
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Any

from tfserving.serving.embedded.core.configuration import Reloadable
from tfserving.serving.embedded.core.model_config import Model
from tfserving.serving.embedded.core.view import View
from tfserving.serving.embedded.errors import Code, EmbeddedError, RequestError, StartError
from tfserving.serving.embedded.gpu.sessions import Place
from tfserving.serving.embedded.gpu.words import Used
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.processes.channel import ClosedError
from tfserving.serving.embedded.processes.counts import Counts
from tfserving.serving.embedded.processes.deaths import Deaths
from tfserving.serving.embedded.processes.heartbeat import Heartbeat
from tfserving.serving.embedded.processes.member import Member, call_all, is_gone
from tfserving.serving.embedded.processes.plan import Plan
from tfserving.serving.embedded.processes.process import import_tensorflow
from tfserving.serving.embedded.processes.worker import Standing, work

log = logging.getLogger(__name__)

# The pause between tries to replace a worker: the first one, which doubles each time, and the longest.
FIRST_WAIT, LONGEST_WAIT = 1.0, 8.0
# A worker that ended earlier is replaced when this time after its start is over.
SHORTEST_LIFE = 1.0
# How long the page for Prometheus waits for the counts of a worker.
COUNTED_SECONDS = 1.0
# How long the load of a version that ended a worker waits for a new worker, before a remaining one tries it.
PLACES_SECONDS = 30.0
TICK_SECONDS = 0.05


class Workers:
    """Loads versions in `plan.flags.workers` processes, which serve the requests."""

    def __init__(self, plan: Plan) -> None:
        """Starts the processes. Raises StartError when one can't start as configured by `plan`."""
        import_tensorflow(find_devices=False)
        self._plan = plan
        self._wanted = plan.flags.workers
        self._seconds = plan.flags.worker_timeout_seconds
        self._current = memoryview(mmap.mmap(-1, 8)).cast("Q")
        self._view = View({}, {})
        self._configuration: Reloadable | None = None
        # Held while the view changes, and while a worker is added that needs the view.
        self._changing = threading.Lock()
        # Guards the three attributes below, which change together. It is never held while waiting.
        self._lock = threading.Lock()
        self._members: tuple[Member, ...] = ()
        # The places of workers that ended, and that no new worker is about to take.
        self._free: set[int] = set()
        self._loaded: dict[tuple[str, int], Path] = {}
        self._ending = threading.Event()
        self._deaths = Deaths()
        self._counts = Counts()
        self._heartbeat = Heartbeat(plan.flags.worker_timeout_seconds, self._standing)
        started: list[Member] = []
        try:
            started += (self._start(number) for number in range(self._wanted))
            self.processes: Sequence[Used] = call_all(started, "prepare")
            if len(self.processes) < self._wanted:
                raise StartError("its process ended at once")
        except (EmbeddedError, OSError) as error:
            for member in started:
                member.kill()
            raise StartError(f"a worker can't start: {error}") from None
        with self._lock:
            for member in started:
                self._add(member)
        self._heartbeat.start()

    def load(self, model: str, version: int, path: Path) -> None:
        """Loads a version in all workers, or in none. Raises RequestError."""
        load = ("load", model, version, path)
        try:
            first = self._load_first(*load)
            with self._lock:
                self._loaded[model, version] = path
                others = [member for member in self._members if member not in first]
            call_all(others, *load)
        except EmbeddedError:
            # A worker that has joined meanwhile may have loaded it, too.
            self.unload(model, version)
            raise

    def unload(self, model: str, version: int) -> None:
        """Frees a version in all workers, when its last handle is released."""
        with self._lock:
            self._loaded.pop((model, version), None)
            members = self._members
        call_all(members, "unload", model, version)

    def show(self, view: View) -> None:
        """Makes `view` the current view of all requests, at one moment."""
        with self._changing:
            number = self._current[0] + 1
            self._view = view
            call_all(self._members, "keep", number, view, seconds=self._seconds)
            self._current[0] = number

    def open(
        self, configuration: Reloadable, grpc_socket: socket.socket | None, rest_socket: socket.socket | None
    ) -> None:
        """Makes the workers serve on the claimed ports. Raises StartError when that fails."""
        with self._changing:
            self._configuration = configuration
            call_all(self._members, "open", self._standing())
        for claimed in (grpc_socket, rest_socket):
            if claimed is not None:
                claimed.close()

    def drain(self, seconds: float) -> int:
        """Refuses new requests, and waits up to `seconds` until those in flight are complete.

        Returns the number of requests that were cut off.
        """
        self._ending.set()
        members = self._members
        # Each step starts when all workers have taken the previous one: see ServingProcess.
        call_all(members, "hold")
        call_all(members, "refuse", seconds)
        return sum(call_all(members, "finish", seconds))

    def _load_first(self, *load: Any) -> tuple[Member, ...]:
        """Loads a version in one worker, since that may end it, and returns the worker. Before serving: in all of them.

        The worker may end for another reason, so there are two tries. The second one waits until a new worker has
        replaced it. Raises RequestError.
        """
        serving = self._configuration is not None
        first: tuple[Member, ...] = ()
        for _ in range(2 if serving else 1):
            self._wait_for_all_but(first)
            first = self._members[:1] if serving else self._members
            loading = [member.channel.begin(*load) for member in first]
            wait(loading)
            if loading and not any(map(is_gone, loading)):
                for future in loading:
                    future.result()
                return first
        raise RequestError(Code.ABORTED, "the process that loaded it ended; the server's log has its output")

    def _wait_for_all_but(self, lost: Sequence[Member]) -> None:
        """Waits, for a limited time, until the number of workers is complete and none of them is in `lost`."""
        until = time.monotonic() + PLACES_SECONDS
        while len(self._members) < self._wanted or set(lost).intersection(self._members):
            if time.monotonic() > until or self._ending.wait(TICK_SECONDS):
                break

    def _start(self, number: int) -> Member:
        member = Member(
            partial(work, self._plan, self._current, Place(number, self._wanted)),
            {"page": self._page, "apply": self._apply},
            ended=self._replace,
            number=number,
        )
        self._heartbeat.watch(member)
        return member

    def _replace(self, member: Member) -> None:
        """Replaces a worker that is gone."""
        code = member.reap()
        with self._lock:
            member.gone = True
            served = member in self._members
            self._members = tuple(other for other in self._members if other is not member)
            self._counts.end(member)
            if served:
                self._free.add(member.number)
        if not served or self._ending.is_set():
            return
        log.error("worker %d ended with exit code %d and is replaced", member.pid, code)
        if hint := self._deaths.note(code):
            log.error("%s", hint)
        self._ending.wait(max(0.0, member.started + SHORTEST_LIFE - time.monotonic()))
        while (number := self._claim_place()) is not None:
            self._fill_place(number)

    def _claim_place(self) -> int | None:
        """Claims a free place; returns its number, None when there is none."""
        with self._lock:
            return self._free.pop() if self._free and not self._ending.is_set() else None

    def _fill_place(self, number: int) -> None:
        pause = 0.0
        while not self._ending.wait(pause):
            try:
                self._join(number)
                log.info("a new worker serves in its place")
                break
            except (EmbeddedError, OSError) as error:
                pause = min(max(FIRST_WAIT, 2 * pause), LONGEST_WAIT)
                log.error("a new worker can't start: %s; the next try is in %g s", error, pause)

    def _join(self, number: int) -> None:
        """Adds a worker that has the same versions. Raises StartError, RequestError, ClosedError or OSError."""
        member = self._start(number)
        try:
            member.channel.call("prepare")
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
            member.kill()
            raise

    def _joined(self, member: Member, has: dict[tuple[str, int], Path]) -> bool:
        """Adds a worker to the others if it has loaded all their versions; returns whether it has."""
        with self._changing:
            member.channel.call("keep", self._current[0], self._view)
            with self._lock:
                if has != self._loaded:
                    return False
                self._add(member)
            if self._configuration is not None:
                member.channel.call("open", self._standing())
            return True

    def _add(self, member: Member) -> None:
        """Adds a worker to the others, with the lock held. Raises ClosedError when it is gone."""
        if member.gone:
            raise ClosedError("its process ended")
        self._members += (member,)
        self._counts.begin(member)

    def _page(self) -> bytes:
        members = self._members
        counting = {member: member.channel.begin("counted") for member in members}
        wait(counting.values(), COUNTED_SECONDS)
        silent = []
        for member, future in counting.items():
            if not future.done():
                silent.append(member.pid)
            elif not future.exception():
                self._counts.note(member, future.result())
        page = metrics.page(self._counts.all())
        notes = [f"# worker {pid} did not respond: the sums contain its last counts\n" for pid in silent]
        return page + "".join(notes).encode()

    def _standing(self) -> Standing:
        """Returns what the heartbeat sends to the workers."""
        if self._configuration is None:
            return Standing()
        members = self._members
        silent = len(self._heartbeat.silent(members))
        trouble = ""
        if silent:
            trouble = f"{silent} of {self._wanted} workers hang"
        elif 2 * len(members) < self._wanted:
            trouble = f"{len(members)} of {self._wanted} workers are running"
        return Standing(self._configuration.names, trouble)

    def _apply(self, models: Sequence[Model], seconds: float | None) -> None:
        assert self._configuration is not None
        self._configuration.apply(models, seconds)
        # When the call returns, readiness is about these models.
        call_all(self._members, "heartbeat", self._standing(), seconds=self._seconds)
