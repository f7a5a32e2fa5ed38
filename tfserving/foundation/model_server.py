"""TensorFlow Serving's own program, where this machine has it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PROGRAM = "tensorflow_model_server"
# Names another program, by its path or by its name on PATH.
VARIABLE = "TENSORFLOW_MODEL_SERVER"


def find_model_server() -> str | None:
    """The absolute path of the program; None when there is none, see `no_model_server`."""
    found = shutil.which(os.environ.get(VARIABLE) or PROGRAM)
    return str(Path(found).absolute()) if found else None


def no_model_server() -> str:
    """Why there is none, and what to do."""
    if named := os.environ.get(VARIABLE):
        return (
            f"{VARIABLE}={named} is neither an executable file nor a program on PATH; correct it, or unset it to use "
            f"the {PROGRAM} on PATH"
        )
    return f"no {PROGRAM} is on PATH; install it, or set {VARIABLE} to its path"
