"""`python -m tfserving.serving.embedded`."""

import os
import sys

from tfserving.serving.embedded.flags import Flags, command


def main() -> None:
    """Reads the flags, serves, and exits."""
    command(_run).main(prog_name="python -m tfserving.serving.embedded")


def _run(flags: Flags) -> int:
    from tfserving.serving.embedded.server import run

    code = run(flags)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of TensorFlow and gRPC may still run; they have nothing left to finish, and must not hold up the end.
    os._exit(code)


if __name__ == "__main__":
    main()
