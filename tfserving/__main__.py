"""`tfserving`, and `python -m tfserving`."""

import os
import signal

# Until a command runs there is nothing to clean up, and a Ctrl-C while modules are imported is no traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from tfserving.cli import tfserving


def main() -> None:
    """Runs the command that the arguments name."""
    tfserving.main(prog_name="tfserving")


if __name__ == "__main__":
    main()
