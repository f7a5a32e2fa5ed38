"""`python -m tfserving.serving.embedded`."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tfserving.foundation.standard_files import open_standard_files

if TYPE_CHECKING:
    from tfserving.serving.embedded.flags import Flags

PROGRAM = "python -m tfserving.serving.embedded"


def main() -> None:
    """Reads the flags, serves, and exits."""
    # Python would answer Ctrl-C with where it is, in the middle of what it imports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    open_standard_files()
    from tfserving.serving.embedded.flags import command

    command(_run).main(prog_name=PROGRAM)


def _run(flags: Flags) -> int:
    import click

    from tfserving.foundation.extras import missing_for_embedded

    if text := missing_for_embedded(PROGRAM):
        click.echo(f"Error: {text}", err=True)
        return 2
    from tfserving.serving.embedded.processes.process import end_process
    from tfserving.serving.embedded.server import run

    # Threads of TensorFlow and gRPC may still run. They have nothing left to finish.
    return end_process(run(flags))


if __name__ == "__main__":
    main()
