"""A worker as the main process sees it: started, called, ended."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from tfserving.serving.embedded.processes.channel import Channel, ClosedError, Methods

log = logging.getLogger(__name__)

# Runs a worker with its end of a channel, until the process ends.
Work = Callable[[socket.socket], None]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
# A worker is killed when the thread that forked it ends, so this thread lives as long as the process.
_forks = ThreadPoolExecutor(1, "fork")


class Member:
    """One worker.

    It is forked off this process, which has imported TensorFlow but never runs it. The import is the slow part of a
    start, and all processes share its memory. Other threads of this process don't exist in the child. So the child
    closes their files, and doesn't use objects that they may have locked.
    """

    def __init__(self, work: Work, methods: Methods, ended: Callable[[Member], None], number: int = 0) -> None:
        """Forks a process that runs `work` and can call `methods`. `ended` is called once, when it is gone.

        `number` is its place among the workers; a replacement takes the place. Raises OSError when the system
        can't start more processes.
        """
        self.number = number
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self.pid = _forks.submit(_fork, work, theirs).result()
        except OSError:
            ours.close()
            raise
        self.started = time.monotonic()
        # Set by `ended`.
        self.gone = False
        self._reaped = False
        self._lock = threading.Lock()
        self.channel = Channel(ours, methods, ended=lambda: ended(self))

    def kill(self) -> None:
        """Kills it. A stopped process ends by no other signal."""
        with self._lock:
            if not self._reaped:
                os.kill(self.pid, signal.SIGKILL)

    def kill_hanging(self, seconds: float) -> None:
        """Kills it because it has not responded for `seconds`."""
        log.error("worker %d has not responded for %g s and is killed", self.pid, seconds)
        self.kill()

    def reap(self) -> int:
        """Returns its exit code, negative for a signal. Call it once, when the process has ended or is about to."""
        # A process without its channel is of no use, in case it still runs.
        self.kill()
        # Without reaping it: until then no other process can get its number.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._reaped = True
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def call_all(members: Sequence[Member], method: str, *args: Any, seconds: float | None = None) -> list[Any]:
    """Calls `method` in all `members`; returns the results of those that live.

    One that has not returned within `seconds` is killed. Raises the first error.
    """
    futures = [member.channel.begin(method, *args) for member in members]
    hanging = wait(futures, seconds).not_done
    for member, future in zip(members, futures, strict=True):
        if future in hanging:
            member.kill_hanging(seconds or 0)
    return [future.result() for future in futures if future not in hanging and not is_gone(future)]


def is_gone(future: Future[Any]) -> bool:
    """Returns whether a finished call has no result because the process has ended."""
    return isinstance(future.exception(), ClosedError)


def _fork(work: Work, channel: socket.socket) -> int:
    parent = os.getpid()
    # Only the main process handles Ctrl-C, also while the child does not ignore it yet.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if not pid:
            _become_worker(work, channel, parent)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _become_worker(work: Work, channel: socket.socket, parent: int) -> NoReturn:
    try:
        # A signal to the process group is for the main process, which drains the workers.
        os.setsid()
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            _leave_to_the_parent(channel.fileno())
            work(channel)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _leave_to_the_parent(channel: int) -> None:
    """Closes all files except the standard ones and `channel`, and reopens what another thread may have locked."""
    # Objects of the parent are never freed here: that would close file numbers which other files have by then.
    gc.freeze()
    for number in {int(entry.name) for entry in Path("/proc/self/fd").iterdir()} - {0, 1, 2, channel}:
        with suppress(OSError):
            os.close(number)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, errors="backslashreplace", closefd=False) for number in (1, 2))
