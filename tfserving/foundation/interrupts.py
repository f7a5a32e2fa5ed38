"""SIGTERM and the end of the terminal, for a command that has to clean up: they are as Ctrl-C.

A module that is half imported turns a KeyboardInterrupt into an error of its own.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_POLL_SECONDS = 0.02
_IMPORTING = "<frozen importlib._bootstrap>"


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Has SIGTERM, and the end of the terminal, raise KeyboardInterrupt, so that nothing is left behind.

    A signal that is ignored stays so, as under `nohup`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    changed = {number: handler for number, handler in before.items() if handler is signal.SIG_DFL}
    for number in changed:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        # What is done is done, interrupted or not.
        if signal.getsignal(signal.SIGALRM) is _interrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in changed.items():
            signal.signal(number, handler)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            # Looked at again soon. Nothing else here has a timer.
            signal.signal(signal.SIGALRM, _interrupt)
            signal.setitimer(signal.ITIMER_REAL, _POLL_SECONDS)
            return
        frame = frame.f_back
    raise KeyboardInterrupt
