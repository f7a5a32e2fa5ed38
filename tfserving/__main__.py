"""`tfserving`, and `python -m tfserving`."""

# What is in signal, without the modules that signal imports.
import _signal  # type: ignore[import-not-found]
import os

# Until a command runs there is nothing to clean up, and a Ctrl-C while modules are imported is no traceback.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, lambda *_: os._exit(130))

from tfserving.cli import tfserving


def main() -> None:
    """Runs the command that the arguments name."""
    tfserving.main(prog_name="tfserving")


if __name__ == "__main__":
    main()
