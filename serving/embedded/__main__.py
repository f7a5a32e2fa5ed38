"""`python -m tfserving.serving.embedded`."""

import os
import sys

import click

from tfserving.foundation.extras import missing_for_embedded
from tfserving.serving.embedded.flags import Flags, command

PROGRAM = "python -m tfserving.serving.embedded"


def main() -> None:
    """Reads the flags, serves, and exits."""
    command(_run).main(prog_name=PROGRAM)


def _run(flags: Flags) -> int:
    if text := missing_for_embedded(PROGRAM):
        click.echo(f"Error: {text}", err=True)
        return 2
    from tfserving.serving.embedded.server import run

    code = run(flags)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of TensorFlow and gRPC may still run; they have nothing left to finish, and must not hold up the end.
    os._exit(code)


if __name__ == "__main__":
    main()
