"""A file for a moment that needs no folder, on systems that have such files."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import IO


def memory_file() -> IO[bytes]:
    """A file without a name, which is gone when it is closed; only this process can find it.

    Linux keeps it in memory, so that it is there with a read-only disk, too. Raises OSError when the system has none.
    """
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("tfserving"), "w+b")
    return tempfile.TemporaryFile()
