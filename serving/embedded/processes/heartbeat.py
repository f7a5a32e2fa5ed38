"""The heartbeat: the main process calls each worker every second, and kills one that doesn't return for too long.

    call ──► returned: it works                          it is gone: nothing to do
      └────► not yet: it is silent ──► silent for `seconds`: killed, and then replaced

All other calls to a worker fail when it is killed, so no caller waits longer than that for one that hangs. Time is
counted in calls: if this process itself was stopped for a while, no worker is killed because of that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any

from tfserving.serving.embedded.processes.member import Member, is_gone
from tfserving.serving.embedded.processes.worker import Standing

BEAT_SECONDS = 1.0
# While a worker is silent for this many beats the server is not ready, since clients that connect to it wait.
SILENT_BEATS = 3


class Heartbeat:
    """Calls workers, and kills those that hang for `seconds`."""

    def __init__(self, seconds: float, standing: Callable[[], Standing]) -> None:
        """`standing` returns the argument of each call."""
        self._seconds = seconds
        self._standing = standing
        self._calls: dict[Member, Future[Any]] = {}
        self._missed: dict[Member, int] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Starts to call, in a thread."""
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def watch(self, member: Member) -> None:
        """Also calls `member`, as long as it lives."""
        with self._lock:
            self._missed[member] = 0

    def silent(self, members: Collection[Member]) -> list[Member]:
        """Returns those of `members` that are silent."""
        with self._lock:
            return [member for member in members if self._missed.get(member, 0) >= SILENT_BEATS]

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(BEAT_SECONDS):
            standing = self._standing()
            with self._lock:
                for member in list(self._missed):
                    self._beat(member, standing)

    def _beat(self, member: Member, standing: Standing) -> None:
        last = self._calls.get(member)
        if last is not None and last.done() and is_gone(last):
            del self._missed[member], self._calls[member]
            return
        if last is None or last.done():
            self._missed[member] = 0
            self._calls[member] = member.channel.begin("heartbeat", standing)
            return
        self._missed[member] += 1
        seconds = self._missed[member] * BEAT_SECONDS
        if seconds >= self._seconds:
            member.kill_hanging(seconds)
