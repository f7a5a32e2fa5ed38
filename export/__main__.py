"""`python -m export`."""

import os
import signal

# Until a command runs there is nothing to clean up, and a Ctrl-C while modules are imported is no traceback.
signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from export.cli import main  # noqa: E402

if __name__ == "__main__":
    main(prog_name="python -m export")
