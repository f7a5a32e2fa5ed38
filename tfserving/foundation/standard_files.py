"""The standard input, output and error of this process."""

from __future__ import annotations

import os
import sys


def open_standard_files() -> None:
    """Opens those that are closed, on nothing.

    Without that the next socket that is opened is one of them, and gets what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, so this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # Python has None for those that were closed when it started.
    sys.stdin, sys.stdout, sys.stderr = (
        file or os.fdopen(number, mode, closefd=False)
        for file, number, mode in ((sys.stdin, 0, "r"), (sys.stdout, 1, "w"), (sys.stderr, 2, "w"))
    )
