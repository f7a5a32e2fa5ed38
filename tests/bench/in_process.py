"""Calling a model, or the handler of a request to it, without a server: a process for `tests.bench.serving_cost`.

python -m tests.bench.in_process in-process VERSION MODEL THREADS
python -m tests.bench.in_process handler VERSION
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.saved_models import SHAPES
from tfserving.foundation.messages import PredictRequest
from tfserving.foundation.tensors import to_proto

SECONDS = 4.0
CALLS = 400


def in_process(version: str, model: str, threads: int) -> dict[str, float]:
    """Calls a second with so many threads, the CPU of each in microseconds, and how long one takes in milliseconds."""
    from tfserving.serving.embedded.core.loader import Runtime, load

    servable = load(model, 1, Path(version), Runtime())
    signature = servable.signatures["serving_default"]
    values = np.random.default_rng(1).random((1, *SHAPES[model]), np.float32)
    counts = [0] * threads
    ended = threading.Event()

    def call(index: int) -> None:
        while not ended.is_set():
            servable.run(signature, [values], ("y",))
            counts[index] += 1

    callers = [threading.Thread(target=call, args=(index,)) for index in range(threads)]
    for caller in callers:
        caller.start()
    time.sleep(1)
    before, started, cpu = sum(counts), time.perf_counter(), time.process_time()
    time.sleep(SECONDS)
    done, seconds, cpu = sum(counts) - before, time.perf_counter() - started, time.process_time() - cpu
    ended.set()
    for caller in callers:
        caller.join()
    return {"rate": done / seconds, "cpu_us": cpu / done * 1e6, "p50_ms": threads * seconds / done * 1e3}


def handler(version: str) -> dict[str, float]:
    """Microseconds of CPU of the handler, of TensorFlow's call in it, and of the handler without that call."""
    from tfserving.serving.embedded.core.loader import Runtime, load
    from tfserving.serving.embedded.core.manager import Manager
    from tfserving.serving.embedded.core.served import Served
    from tfserving.serving.embedded.grpc.face import methods

    served = Served(lambda name, number, path: load(name, number, path, Runtime(intra_op_threads=1)))
    manager = Manager(served)
    manager.aspire("tiny", {1: Path(version)})
    manager.wait_until_settled(threading.Event())
    values = np.random.default_rng(1).random((1, 32), np.float32)
    request = PredictRequest()
    request.model_spec.name = "tiny"
    request.inputs["x"].CopyFrom(to_proto(values))
    data = request.SerializeToString()
    configuration: Any = None
    answer = methods(served, configuration)["/tensorflow.serving.PredictionService/Predict"]
    answer(data)
    with served.handle("tiny") as servable:
        ((key, guarded),) = servable._calls.items()
        (output,) = guarded(values)
        found: dict[str, list[float]] = {"handler": [], "tensorflow": [], "without": []}
        for _ in range(20):
            found["handler"].append(_cost(lambda: answer(data)))
            found["tensorflow"].append(_cost(lambda: guarded(values)))
            servable._calls[key] = lambda *_: [output]
            found["without"].append(_cost(lambda: answer(data)))
            servable._calls[key] = guarded
    return {
        "handler_us": statistics.median(found["handler"]),
        "tensorflow_us": statistics.median(found["tensorflow"]),
        "handler_without_tensorflow_us": statistics.median(found["without"]),
        "difference_us": statistics.median(
            whole - part for whole, part in zip(found["handler"], found["tensorflow"], strict=True)
        ),
        **{f"least_{name}_us": min(some) for name, some in found.items()},
    }


def _cost(call: Callable[[], object]) -> float:
    started = time.thread_time()
    for _ in range(CALLS):
        call()
    return (time.thread_time() - started) / CALLS * 1e6


if __name__ == "__main__":
    # As the server does; no SavedModel needs it.
    sys.modules["keras"] = None  # type: ignore[assignment]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if sys.argv[1] == "handler":
        print(json.dumps(handler(sys.argv[2])))
    else:
        print(json.dumps(in_process(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
