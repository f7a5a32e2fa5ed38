"""Measure batching with the run times of a GPU, on a machine without one.

    python -m tests.bench.gpu_batching                          ResNet50 and the encoder, 64 clients of one row
    python -m tests.bench.gpu_batching --before ../old resnet   with the server of another checkout

The embedded server serves a trivial model with inputs and outputs of the real one's sizes. After each run it sleeps as
long as an H200 took for so many rows. The sleeps are one after the other, as runs on a GPU are. So the figures show
what the server costs, and nothing of what a GPU does. On a small machine the clients need the processors, too: compare
`cpu_us`, the server's CPU for each row, and `idle`, the part of the time in which no run was on the "GPU".
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.formats import GRPC
from tests.bench.load import Figures, Server, running, say
from tests.bench.saved_models import Model
from tests.serving.embedded.running import ROOT, free_port
from tfserving.foundation.tensors import Array

# Milliseconds of a run by its rows, measured on an H200, in process; 64 rows by the slope from 8 to 32.
TIMES = {
    "resnet": {1: 5.5, 8: 7.5, 32: 17.0, 64: 29.7},
    "encoder": {1: 13.4, 8: 14.3, 32: 17.8, 64: 22.5},
}
# The shape and the type of a row, and the number of outputs.
ROWS: dict[str, tuple[tuple[int, ...], Any, int]] = {
    "resnet": ((224, 224, 3), np.float32, 1000),
    "encoder": ((128,), np.int32, 128),
}
# In process, at a batch of 32 rows, and the part of it that serving is to reach.
IN_PROCESS = {"resnet": 2560, "encoder": 2130}
CLIENTS = 64
# Of the server, for requests that wait for their batch.
THREADS = 160
_COUNTERS = ("busy", "runs", "rows")


def milliseconds(times: dict[int, float], rows: int) -> float:
    """The time of a run of so many rows, between the measured ones; beyond them it is a multiple of the largest."""
    sizes = [*times]
    if rows >= sizes[-1]:
        return times[sizes[-1]] * rows / sizes[-1]
    at = max(1, bisect_left(sizes, rows))
    low, high = sizes[at - 1], sizes[at]
    return times[low] + (times[high] - times[low]) * (rows - low) / (high - low)


def save(folder: Path, name: str) -> Model:
    """Saves a model that returns the first values of each row of its input."""
    import tensorflow as tf

    shape, dtype, outputs = ROWS[name]
    spec = tf.TensorSpec((None, *shape), dtype, "x")

    def first(x: Any) -> Any:
        part = x[:, :2] if len(shape) > 1 else x
        return {"y": tf.cast(tf.reshape(part, (-1, int(np.prod(part.shape[1:]))))[:, :outputs], tf.float32)}

    function = tf.function(first, input_signature=[spec])
    tf.saved_model.save(tf.Module(), str(folder / name / "1"), {"serving_default": function})
    values = np.random.default_rng(1).integers(0, 255, (1, *shape)).astype(dtype)
    return Model(name, folder / name, values, function(values)["y"].numpy())


def serve(name: str, counters: Path, arguments: Sequence[str]) -> None:
    """Runs the embedded server, whose session takes as long as a GPU; counts in the file `counters`."""
    from tfserving.serving.embedded import __main__ as program
    from tfserving.serving.embedded.core import loader, session_call
    from tfserving.serving.embedded.processes import serving_process

    make_call: Callable[..., Callable[..., list[Array]]] = session_call.make_call
    gpu = threading.Lock()
    counted = np.memmap(counters, np.float64, "r+", shape=(len(_COUNTERS),))

    def make(*given: Any) -> Callable[..., list[Array]]:
        call = make_call(*given)

        def run(*arrays: Array) -> list[Array]:
            outputs = call(*arrays)
            rows = len(arrays[0])
            with gpu:
                seconds = milliseconds(TIMES[name], rows) / 1e3
                time.sleep(seconds)
                counted[:] += seconds, 1, rows
            return outputs

        return run

    loader.make_call = make  # type: ignore[attr-defined, assignment]
    # A checkout from before batching knew a GPU doesn't read it.
    serving_process.ServingProcess._has_gpu = property(lambda _: True)  # type: ignore[assignment]
    sys.argv[1:] = arguments
    program.main()


def measured(server: Server, counters: Path, seconds: float) -> Figures:
    """The figures under the load of CLIENTS clients, and those of the "GPU"."""
    counted = np.memmap(counters, np.float64, "r", shape=(len(_COUNTERS),))
    server.load(CLIENTS, 0.2)
    before, began = counted.copy(), time.monotonic()
    figures = server.load(CLIENTS, seconds)
    busy, runs, rows = counted - before
    return figures | {"idle": 1 - busy / (time.monotonic() - began), "rows_a_run": rows / runs}


def started(model: Model, folder: Path, checkout: Path, flags: Sequence[str]) -> tuple[Server, Path]:
    """A server of a checkout, and the file with its counters."""
    counters = folder / f"counters-{free_port()}"
    counters.write_bytes(bytes(8 * len(_COUNTERS)))
    port = free_port()
    given = (f"--port={port}", f"--model_name={model.name}", f"--model_base_path={model.base}", *flags)
    script = f"import sys; sys.path.append({str(ROOT)!r}); from tests.bench.gpu_batching import serve"
    code = f"{script}; serve({model.name!r}, {str(counters)!r}, sys.argv[1:])"
    return Server(model, GRPC, port, sys.executable, "-c", code, *given, checkout=checkout), counters


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*TIMES, []], default=[], metavar="model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2, help="batch threads")
    parser.add_argument("--largest", type=int, default=64, help="rows of the largest batch")
    parser.add_argument("--transport", default="auto")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="a checkout whose embedded server takes part")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results: dict[str, Any] = {}
    for name in arguments.models or TIMES:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            model = save(folder, name)
            parameters = folder / "batching.txt"
            sizes = [1 << power for power in range(arguments.largest.bit_length())]
            parameters.write_text(
                f"max_batch_size {{ value: {arguments.largest} }} max_enqueued_batches {{ value: 100 }} "
                f"num_batch_threads {{ value: {arguments.threads} }} allowed_batch_sizes: {sizes}\n"
            )
            flags: tuple[str, ...] = (
                "--enable_batching",
                f"--batching_parameters_file={parameters}",
                f"--grpc_max_threads={THREADS}",
            )
            flags += (f"--grpc_transport={arguments.transport}",)
            checkouts = {"now": ROOT} | ({"before": arguments.before.resolve()} if arguments.before else {})
            there = {key: started(model, folder, checkout, flags) for key, checkout in checkouts.items()}
            rounds: dict[str, list[Figures]] = {key: [] for key in there}
            with running({key: server for key, (server, _) in there.items()}):
                for _ in range(arguments.rounds):
                    for key, (server, counters) in there.items():
                        figures = measured(server, counters, arguments.seconds)
                        rounds[key].append({name: float(f"{value:.4g}") for name, value in figures.items()})
                        say(f"{name} {key}: {rounds[key][-1]}")
            results[name] = rounds
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
