"""`tfserving`, and `python -m tfserving`."""

# What is in signal, without the modules that signal imports.
import _signal  # type: ignore[import-not-found]
import os
import sys

# Until a command runs there is nothing to clean up, and a Ctrl-C while modules are imported is no traceback.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, lambda *_: os._exit(130))

# `python -m` puts the working folder first: a module there can have the name of one that is imported here.
try:
    if sys.path[:1] == [os.getcwd()]:  # noqa: PTH109 - pathlib is one of these modules
        del sys.path[0]
except FileNotFoundError:
    # The working folder was removed.
    pass

from tfserving.cli import tfserving


def main() -> None:
    """Run the command that the arguments name."""
    if sys.stderr is None:
        # It is closed. Errors do not go to stdout instead.
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - pathlib costs time, and it stays open
    tfserving.main(prog_name="tfserving")


if __name__ == "__main__":
    main()
