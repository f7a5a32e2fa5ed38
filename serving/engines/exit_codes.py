"""What the exit codes of model servers mean, in words."""

from __future__ import annotations

import signal

# A shell and the Docker Engine add it to the number of the signal that ended a process.
_FROM_SIGNAL = 128
_MEANINGS = {
    126: "its command can't be run",
    127: "its command was not found; is the image one of TensorFlow Serving?",
    _FROM_SIGNAL + signal.SIGABRT: "it aborted; its log says why",
    _FROM_SIGNAL + signal.SIGILL: "it has instructions that this CPU hasn't; an image for another CPU is needed",
    _FROM_SIGNAL + signal.SIGSEGV: "it crashed, by a segmentation fault",
    _FROM_SIGNAL + signal.SIGKILL: "it was killed",
    _FROM_SIGNAL + signal.SIGTERM: "it was told to stop",
    # TensorFlow Serving knows no other for a start that fails.
    255: "a model failed to load, or a flag was wrong; its log says why",
}


def meaning(code: int) -> str:
    """What an exit code says; a negative one is a signal's number, as Python's `subprocess` has it."""
    if code < 0:
        code = _FROM_SIGNAL - code
    said = _MEANINGS.get(code)
    return f"exit code {code}: {said}" if said else f"exit code {code}"


def as_subprocess(code: int) -> int:
    """An exit code of a shell or of the Docker Engine, as Python's `subprocess` has it: negative for a signal."""
    return _FROM_SIGNAL - code if _FROM_SIGNAL < code < _FROM_SIGNAL + signal.NSIG else code
