"""`python -m tfserving.k8s.alive FILE MINUTES`: whether FILE was touched in the last MINUTES, as the exit code.

The liveness probe of a container whose image needs neither a shell nor find.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main(file: str, minutes: str) -> int:
    """Return 0 when `file` was touched in the last `minutes`, else 1."""
    try:
        touched = Path(file).stat().st_mtime
    except OSError as error:
        print(f"{file}: {error.strerror}", file=sys.stderr)
        return 1
    if (age := time.time() - touched) <= 60 * float(minutes):
        return 0
    print(f"{file} was touched {age:.0f} s ago, expected at most {minutes} minutes", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
