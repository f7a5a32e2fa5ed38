"""`python -m tfserving.serving.embedded`."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tfserving.foundation.standard_files import open_standard_files

if TYPE_CHECKING:
    from tfserving.serving.embedded.flags import Flags


def main() -> None:
    """Read the flags, serve, and exit."""
    # Without this, Ctrl-C during an import prints a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    open_standard_files()
    from tfserving.serving.embedded.command_line import PROGRAM, command

    command(_run).main(prog_name=PROGRAM)


def _run(flags: Flags) -> int:
    import click

    from tfserving.foundation.extras import missing_for_embedded
    from tfserving.serving.embedded.command_line import PROGRAM

    if text := missing_for_embedded(PROGRAM):
        click.echo(f"Error: {text}", err=True)
        return 2
    from tfserving.serving.embedded.processes.process import end_process
    from tfserving.serving.embedded.server import run

    # Threads of TensorFlow and gRPC may still run, but have nothing left to complete.
    return end_process(run(flags))


if __name__ == "__main__":
    main()
