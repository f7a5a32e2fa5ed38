"""Measure the cost of the client: its calls compared with a bare stub, and a response compared with `np.array`.

    python -m tests.bench.client_cost            all jobs, a table
    python -m tests.bench.client_cost --json FILE

CPU is that of this process, with all its threads. Compared parts run in turn, for several rounds. A ratio is the median
of the rounds' ratios, because other load on the machine affects all parts of one round alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from tests.bench import servers
from tests.bench.load import running
from tests.bench.saved_models import Model
from tests.bench.servers import predict_response
from tests.serving.embedded.running import ROOT
from tfserving.clients import connect, connect_async
from tfserving.clients.errors import Call
from tfserving.clients.grpc_calls import PREDICT
from tfserving.clients.grpc_transport import OPTIONS
from tfserving.clients.wire import predict_request, read_predict_response
from tfserving.foundation.messages import PredictResponse
from tfserving.foundation.tensors import Array

ROUNDS = 9
START = (
    "import resource, sys, time; started = time.perf_counter(); "
    "from tfserving import clients; clients.connect; clients.connect_async"
)
MEASURE = "print(time.perf_counter() - started, psutil.Process().memory_info().rss / 2**20)"


@dataclass(frozen=True)
class Result:
    """What one job found: microseconds of ours and of what it is measured against, and how many times as much."""

    job: str
    ours_us: float
    bare_us: float
    ratio: float


def compared(job: str, ours: Callable[[int], float], bare: Callable[[int], float], calls: int) -> Result:
    """Both in turn; each is given a number of calls and returns the seconds of CPU that they took."""
    ours(calls // 4), bare(calls // 4)
    rounds = [(ours(calls) / calls * 1e6, bare(calls) / calls * 1e6) for _ in range(ROUNDS)]
    return Result(
        job,
        statistics.median(one for one, _ in rounds),
        statistics.median(other for _, other in rounds),
        statistics.median(one / other for one, other in rounds),
    )


def cpu(call: Callable[[], Any]) -> Callable[[int], float]:
    """The CPU of so many calls."""

    def measure(calls: int) -> float:
        started = time.process_time()
        for _ in range(calls):
            call()
        return time.process_time() - started

    return measure


def predict(job: str, sent: Array, answered: Array, calls: int) -> list[Result]:
    """A predict call of the client against the bare stub's with the bytes prepared."""
    body = b"".join(predict_request(Call(model="model", signature="serving_default"), {"input": sent}))
    with tempfile.TemporaryDirectory() as folder:
        model = Model("model", Path(folder) / "model", sent, answered)
        with running({"echo": servers.echo(model)}) as there:
            port = there["echo"].port
            with (
                connect(f"grpc://127.0.0.1:{port}") as client,
                grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel,
            ):
                stub: Any = channel.unary_unary(PREDICT)
                blocking = compared(
                    job,
                    cpu(lambda: client.predict("model", {"input": sent})),
                    cpu(lambda: stub(body, timeout=10)),
                    calls,
                )
            return [blocking, asyncio.run(predict_async(job, port, sent, body, calls))]


async def predict_async(job: str, port: int, sent: Array, body: bytes, calls: int) -> Result:
    """The same of the asyncio client against grpcio's asyncio stub."""
    rounds = []
    async with (
        connect_async(f"grpc://127.0.0.1:{port}") as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel,
    ):
        stub: Any = channel.unary_unary(PREDICT)
        for _ in range(ROUNDS):
            started = time.process_time()
            for _ in range(calls):
                await client.predict("model", {"input": sent})
            between = time.process_time()
            for _ in range(calls):
                await stub(body, timeout=10)
            rounds.append(((between - started) / calls * 1e6, (time.process_time() - between) / calls * 1e6))
    return Result(
        f"{job}, asyncio",
        statistics.median(one for one, _ in rounds),
        statistics.median(other for _, other in rounds),
        statistics.median(one / other for one, other in rounds),
    )


def decode() -> Result:
    """An answer of 64 x 1000 floats against `np.array` of its field, already parsed."""
    data = predict_response("model", np.random.default_rng(1).random((64, 1000), np.float32))
    field = PredictResponse.FromString(data).outputs["y"].float_val
    ours, bare = cpu(lambda: read_predict_response(data)), cpu(lambda: np.array(field))
    return compared("decode 64 x 1000 floats", ours, bare, 1000)


def start() -> dict[str, float]:
    """Seconds to import the clients, with what both kinds of client need, and megabytes resident then."""
    modules = ("grpc_calls", "grpc_transport", "rest_calls", "rest_transport")
    code = f"{START}; import {', '.join(f'tfserving.clients.{module}' for module in modules)}; import psutil; "
    runs = [
        [float(part) for part in subprocess.check_output([sys.executable, "-c", code + MEASURE], cwd=ROOT).split()]
        for _ in range(5)
    ]
    return {"import_s": statistics.median(run[0] for run in runs), "resident_mb": statistics.median(r[1] for r in runs)}


def main() -> None:
    """Runs all jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="Calls of a small request in each round.")
    parser.add_argument("--json", type=Path, help="Write the results to this file.")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    results = [
        *predict("32 floats", rng.random((1, 32), np.float32), rng.random((1, 10), np.float32), options.calls),
        *predict(
            "224 x 224 x 3 floats",
            rng.random((1, 224, 224, 3), np.float32),
            rng.random((1, 1000), np.float32),
            max(options.calls // 5, 1),
        ),
        decode(),
    ]
    for result in results:
        print(f"{result.job:28} {result.ours_us:8.1f} µs, bare {result.bare_us:8.1f} µs, ratio {result.ratio:.2f}")
    begun = start()
    print(f"import: {begun['import_s']:.2f} s, {begun['resident_mb']:.0f} MB resident")
    if options.json:
        options.json.write_text(json.dumps({"results": [asdict(result) for result in results], **begun}, indent=2))


if __name__ == "__main__":
    main()
