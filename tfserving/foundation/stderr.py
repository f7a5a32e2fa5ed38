"""Standard error, hidden while a library prints too much."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tfserving.foundation.memory_file import memory_file


@contextmanager
def hidden_stderr() -> Iterator[None]:
    """Keeps what is written to file descriptor 2, by C++ too, and shows it only when the block raises."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with memory_file() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except Exception:
            hidden.seek(0)
            os.write(terminal, hidden.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
