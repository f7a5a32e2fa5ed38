"""The embedded server where TensorFlow is said to have found GPUs: `--pretend=JSON`, besides the server's own flags.

It shows what the server decides and reports. It computes on the CPU, and proves nothing about a GPU.

`gpus` are names and compute capabilities, `path` is the folder with a `nvidia-smi`, and `fails` the text of an error
with which every load fails.
"""

from __future__ import annotations

import json
import os
import sys

PRETEND = "--pretend="


def main() -> None:
    """Serves, and exits."""
    from tfserving.serving.embedded import __main__ as embedded
    from tfserving.serving.embedded.errors import Code, RequestError
    from tfserving.serving.embedded.gpu.found import FoundGpu
    from tfserving.serving.embedded.processes import process, serving_process

    (pretended,) = (json.loads(word.removeprefix(PRETEND)) for word in sys.argv if word.startswith(PRETEND))
    sys.argv[1:] = [word for word in sys.argv[1:] if not word.startswith(PRETEND)]
    os.environ["PATH"] = pretended["path"]
    gpus = tuple(FoundGpu(name, tuple(capability)) for name, capability in pretended["gpus"])
    process.find_gpus = lambda: gpus
    if text := pretended.get("fails"):

        def load(*_: object) -> None:
            raise RequestError(Code.INTERNAL, text)

        serving_process.load = load  # type: ignore[assignment]
    embedded.main()


if __name__ == "__main__":
    main()
