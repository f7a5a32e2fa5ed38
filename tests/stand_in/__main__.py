"""A stand-in for tensorflow_model_server: `python -m tests.stand_in`, with that program's flags.

The embedded server's own code, with what the real one does that the embedded one does better. What it shows proves
nothing about the real one; what it does is what a real one was seen to do:

- its flags alone; a word that it doesn't know is reported and changes nothing
- all addresses, no explanations, no checks of shapes and operations, no probes, no list of models
- gRPC refuses the calls that exceed its threads; the metrics page counts none of them
- REST has one pool of threads for all: status, metadata and the metrics page wait for predictions
- the metrics page counts every GET of a model
- SIGTERM ends it at once; what fails at the start ends it with 255
- TensorFlow's log, with all models at every poll of the configuration
- a change that names a model without versions waits for them, and so do all later changes
- a change that names a model again returns an error when a version of it was unloaded before, and loads it (its source)
- 256 threads for each load, or it aborts
"""

from __future__ import annotations

import sys


def main() -> None:
    """Serves, and exits."""
    from tests.stand_in.command_line import FAILED, WrongFlagError, read_flags

    try:
        flags = read_flags(sys.argv[1:])
    except WrongFlagError as error:
        print(f"{error}\nusage: tensorflow_model_server")
        sys.exit(FAILED)
    if flags is None:
        sys.exit()
    from tests.stand_in import log

    log.begin()
    from tests.stand_in.server import serve
    from tfserving.serving.embedded.processes.process import end_process

    # Threads of TensorFlow and gRPC may still run. They have nothing left to finish.
    end_process(serve(flags))


if __name__ == "__main__":
    main()
