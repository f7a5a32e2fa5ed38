"""`python -m tfserving.serving.embedded`."""

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
    from tfserving.serving.embedded.processes.process import end_process
    from tfserving.serving.embedded.server import run

    # Threads of TensorFlow and gRPC may still run. They have nothing left to finish.
    return end_process(run(flags))


if __name__ == "__main__":
    main()
