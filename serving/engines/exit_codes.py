"""What the exit codes of model servers mean."""

from __future__ import annotations

import signal

# A shell and the Docker Engine report a signal as this number plus the signal's.
_FROM_SIGNAL = 128
_MEANINGS = {
    0: "it was stopped",
    126: "its command can't be run",
    127: "its command was not found. Check that the image contains TensorFlow Serving",
    _FROM_SIGNAL + signal.SIGABRT: "it aborted, see its log",
    _FROM_SIGNAL + signal.SIGILL: "it uses instructions that this CPU lacks. Use an image for this CPU",
    _FROM_SIGNAL + signal.SIGSEGV: "it crashed, by a segmentation fault",
    _FROM_SIGNAL + signal.SIGKILL: "it was killed",
    _FROM_SIGNAL + signal.SIGTERM: "it was stopped by SIGTERM",
    # TensorFlow Serving exits with this code for every failed start.
    255: "a model failed to load, or a flag was wrong, see its log",
}


def meaning(code: int) -> str:
    """Return an exit code in words; a negative one is a signal's number, as in Python's `subprocess`."""
    if code < 0:
        code = _FROM_SIGNAL - code
    text = _MEANINGS.get(code)
    return f"exit code {code}: {text}" if text else f"exit code {code}"


def as_subprocess(code: int) -> int:
    """Return an exit code of a shell or of the Docker Engine as in Python's `subprocess`: negative for a signal."""
    return _FROM_SIGNAL - code if _FROM_SIGNAL < code < _FROM_SIGNAL + signal.NSIG else code
