"""The speed of a version in process, without a server: `python -m tests.gpu.in_process VERSION SIZE,… SECONDS [tf32]`.

The version is loaded as the embedded server loads it. The rows are those of its golden requests.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tfserving.foundation.golden import read_golden


def measure(version: Path, sizes: list[int], seconds: float, *, tf32: bool) -> dict[str, Any]:
    """Return how long loading, the first two calls of each size, and a later one take."""
    from tfserving.serving.embedded.core.loader import Runtime, load
    from tfserving.serving.embedded.processes.process import import_tensorflow, prepare_process

    prepare_process()
    import_tensorflow(find_devices=False)
    from tensorflow.python.framework.config import enable_tensor_float_32_execution

    enable_tensor_float_32_execution(tf32)
    requests = [request for request in read_golden(version).requests if request.method == "predict"]
    started = time.perf_counter()
    servable = load("measured", 1, version, Runtime())
    found: dict[str, Any] = {"load_seconds": round(time.perf_counter() - started, 3), "sizes": {}}
    for size in sizes:
        # The first of the size: a later one may have edge values.
        request = next(one for one in requests if all(len(array) == size for array in one.inputs.values()))
        signature = servable.signatures[request.signature]
        arrays = [request.inputs[name] for name in signature.inputs]
        outputs = tuple(signature.outputs)
        took: list[float] = []
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends or len(took) < 5:
            began = time.perf_counter()
            servable.run(signature, arrays, outputs)
            took.append(time.perf_counter() - began)
        found["sizes"][size] = {
            "first_seconds": [round(one, 4) for one in took[:2]],
            "p50_ms": round(statistics.median(took[2:]) * 1e3, 3),
            "rows_per_second": round(size / statistics.median(took[2:]), 1),
            "calls": len(took),
        }
    return found


if __name__ == "__main__":
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    if "tf32" not in sys.argv[4:]:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    _sizes = [int(one) for one in sys.argv[2].split(",")]
    print(json.dumps(measure(Path(sys.argv[1]), _sizes, float(sys.argv[3]), tf32="tf32" in sys.argv[4:])))
