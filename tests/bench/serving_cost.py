"""What serving costs: the embedded server against a bare echo, a naive server, and calling the model in process.

    python -m tests.bench.serving_cost                 all jobs
    python -m tests.bench.serving_cost grpc rest       some of them
    python -m tests.bench.serving_cost --list

The load comes from h2load (Debian's nghttp2-client). What is compared runs in turn, several rounds of it; a figure is
the median of its rounds, a ratio the median of the rounds' ratios, since one round's parts saw the same machine.
CPU is that of the server's processes, counted by the kernel, divided by the requests they answered.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from tests.bench.saved_models import SHAPES, save
from tests.serving.embedded.running import ROOT, free_port, wait_until
from tfserving.foundation.messages import PredictRequest
from tfserving.foundation.tensors import to_proto

PREDICT = "/tensorflow.serving.PredictionService/Predict"
SECONDS = 4.0
WARM_UP = 1.0
ONE_THREAD = ("--tensorflow_intra_op_parallelism=1", "--grpc_max_threads=4", "--rest_api_num_threads=4")
LINE = re.compile(r"finished in .*?, ([0-9.]+) req/s")
COUNTS = re.compile(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored")


@dataclass(frozen=True)
class Figures:
    """Requests a second, microseconds of the server's CPU for each, and milliseconds that one took, on average."""

    rate: float
    cpu_us: float
    latency_ms: float


class Server:
    """A server in a process of its own; `port` is where it is asked."""

    def __init__(self, port: int, *command: str) -> None:
        self.port = port
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._watched = psutil.Process(self._process.pid)
        wait_until(f"{' '.join(command)} listens", self._listens, 120)

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise SystemExit(f"the server ended with {self._process.returncode}")
        family = (self._watched, *self._watched.children(recursive=True))
        return any(c.laddr.port == self.port for p in family for c in p.net_connections() if c.status == "LISTEN")

    def cpu(self) -> float:
        """Seconds of CPU that its processes have used."""
        family = (self._watched, *self._watched.children(recursive=True))
        return sum(times.user + times.system for times in (process.cpu_times() for process in family))

    def stop(self) -> None:
        """Ends it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


def embedded(models: Path, name: str, *flags: str, rest: bool = False) -> Server:
    """The embedded server with one model, asked over gRPC or REST."""
    port = free_port()
    ports = ("--port=0", f"--rest_api_port={port}") if rest else (f"--port={port}",)
    where = (f"--model_name={name}", f"--model_base_path={models / name}")
    return Server(port, "tfserving.serving.embedded", *ports, *where, *(flags or ONE_THREAD))


def baseline(kind: str, argument: Path) -> Server:
    """One of `tests.bench.baselines`."""
    port = free_port()
    return Server(port, "tests.bench.baselines", kind, str(port), str(argument))


@contextlib.contextmanager
def running(**servers: Server) -> Iterator[Mapping[str, Server]]:
    """The servers, which are stopped in the end."""
    try:
        yield servers
    finally:
        for server in servers.values():
            server.stop()


class Bodies:
    """Requests of one row to the model `name`, in files as h2load sends them."""

    def __init__(self, folder: Path, name: str) -> None:
        values = np.random.default_rng(1).random((1, *SHAPES[name]), np.float32)
        request = PredictRequest()
        request.model_spec.name = name
        request.inputs["x"].CopyFrom(to_proto(values))
        self.request: bytes = request.SerializeToString()
        self.name = name
        self.values = values
        self.grpc = folder / f"{name}.grpc"
        # https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md: not compressed, and how long.
        self.grpc.write_bytes(struct.pack(">BI", 0, len(self.request)) + self.request)
        self.rest = folder / f"{name}.json"
        self.rest.write_text(json.dumps({"instances": values.tolist()}))
        self.answer = folder / f"{name}.answer"

    def keep_answer(self, server: Server) -> Path:
        """What `server` answers over gRPC, in a file."""
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call: Any = channel.unary_unary(PREDICT)
            self.answer.write_bytes(call(self.request, timeout=60))
        return self.answer


def load(server: Server, bodies: Bodies, connections: int, *, rest: bool = False, seconds: float = SECONDS) -> Figures:
    """Asks `server` over so many connections, each with its next request when it has its answer."""
    rate = _h2load(server, bodies, connections, rest, 10 * connections)
    rate = _h2load(server, bodies, connections, rest, int(rate * WARM_UP) + connections)
    before, count = server.cpu(), int(rate * seconds) + connections
    rate = _h2load(server, bodies, connections, rest, count)
    return Figures(rate, (server.cpu() - before) / count * 1e6, connections / rate * 1e3)


def _h2load(server: Server, bodies: Bodies, connections: int, rest: bool, count: int) -> float:
    """Requests a second, of so many. Not for a time: h2load hangs then when an HTTP/1 server closes connections."""
    url = f"http://127.0.0.1:{server.port}"
    if rest:
        how = ["--h1", "-d", str(bodies.rest), "-H", "content-type: application/json"]
        url += f"/v1/models/{bodies.name}:predict"
    else:
        how = ["-d", str(bodies.grpc), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        url += PREDICT
    command = ["h2load", "-n", str(count), "-c", str(connections), "-m", "1", "-t", "1", *how, url]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    rate, counts = LINE.search(said), COUNTS.search(said)
    if rate is None or counts is None or int(counts[1]) != count:
        raise SystemExit(f"requests failed:\n{said}")
    return float(rate[1])


Asked = Callable[[], Figures]


def rounds(number: int, **asked: Asked) -> dict[str, list[Figures]]:
    """The figures of each of `asked`, in turn, `number` times."""
    found: dict[str, list[Figures]] = {name: [] for name in asked}
    for done in range(number):
        for name, ask in asked.items():
            found[name].append(ask())
        _say(f"  round {done + 1} of {number}: " + "  ".join(_short(name, some[-1]) for name, some in found.items()))
    return found


def _short(name: str, figures: Figures) -> str:
    return f"{name} {figures.rate:,.0f}/s {figures.cpu_us:,.0f} µs"


def ratio(over: Sequence[Figures], under: Sequence[Figures], what: str = "cpu_us") -> float:
    """The median of the rounds' ratios."""
    ratios: list[float] = [getattr(a, what) / getattr(b, what) for a, b in zip(over, under, strict=True)]
    return statistics.median(ratios)


def medians(found: Mapping[str, Sequence[Figures]]) -> dict[str, dict[str, float]]:
    """The median of each figure."""
    return {
        name: {key: statistics.median(getattr(one, key) for one in some) for key in asdict(some[0])}
        for name, some in found.items()
    }


def job_grpc(folder: Path, number: int) -> dict[str, Any]:
    """Tiny model, one row, gRPC: against the echo and the naive server, over 1 and 8 connections."""
    save(folder, "tiny")
    bodies = Bodies(folder, "tiny")
    ours = embedded(folder, "tiny")
    servers = running(
        ours=ours,
        echo=baseline("echo", bodies.keep_answer(ours)),
        naive=baseline("naive-grpc", folder / "tiny/1"),
    )
    result = {}
    with servers as there:
        for connections in (1, 8):
            asked = {name: _asking(server, bodies, connections) for name, server in there.items()}
            found = rounds(number, **asked)
            result[f"{connections} connections"] = {
                **medians(found),
                "cpu over echo": ratio(found["ours"], found["echo"]),
                "cpu over naive": ratio(found["ours"], found["naive"]),
                "rate over naive": ratio(found["ours"], found["naive"], "rate"),
            }
    return result


def job_rest(folder: Path, number: int) -> dict[str, Any]:
    """Tiny model, one row, REST: against gRPC's echo and the naive server."""
    save(folder, "tiny")
    bodies = Bodies(folder, "tiny")
    over_grpc = embedded(folder, "tiny")
    servers = running(
        ours=embedded(folder, "tiny", rest=True),
        grpc=over_grpc,
        echo=baseline("echo", bodies.keep_answer(over_grpc)),
        naive=baseline("naive-rest", folder / "tiny/1"),
    )
    with servers as there:
        asked = {
            name: _asking(server, bodies, 8, rest=name in ("ours", "naive"))
            for name, server in there.items()
            if name != "grpc"
        }
        found = rounds(number, **asked)
    return {
        **medians(found),
        "cpu over gRPC's echo": ratio(found["ours"], found["echo"]),
        "cpu over naive": ratio(found["ours"], found["naive"]),
    }


def job_image(folder: Path, number: int) -> dict[str, Any]:
    """A 224x224x3 image: over gRPC against the echo and the model's own time, as JSON against the naive server."""
    save(folder, "image")
    bodies = Bodies(folder, "image")
    over_grpc = embedded(folder, "image")
    servers = running(
        ours=over_grpc,
        echo=baseline("echo", bodies.keep_answer(over_grpc)),
        ours_rest=embedded(folder, "image", rest=True),
        naive_rest=baseline("naive-rest", folder / "image/1"),
    )
    model_us = in_process(folder / "image/1", "image", threads=1, intra_op=1)["cpu_us"]
    with servers as there:
        asked = {
            name: _asking(server, bodies, 4, rest=name.endswith("rest"), seconds=6 if "rest" in name else SECONDS)
            for name, server in there.items()
        }
        found = rounds(number, **asked)
    over = statistics.median(
        ours.cpu_us / (echo.cpu_us + model_us) for ours, echo in zip(found["ours"], found["echo"], strict=True)
    )
    return {
        **medians(found),
        "model_us": model_us,
        "cpu over echo and model": over,
        "JSON: rate over naive": ratio(found["ours_rest"], found["naive_rest"], "rate"),
        "JSON: naive cpu over ours": ratio(found["naive_rest"], found["ours_rest"]),
    }


def job_model(folder: Path, number: int) -> dict[str, Any]:
    """A model of more than 5 ms: throughput over gRPC, 4 connections, against 1 or 4 callers in process."""
    save(folder, "cnn")
    bodies = Bodies(folder, "cnn")
    version = folder / "cnn/1"
    with running(ours=embedded(folder, "cnn", "--grpc_max_threads=4")) as there:
        found = rounds(
            number,
            ours=_asking(there["ours"], bodies, 4),
            in_process=lambda: Figures(**in_process(version, "cnn", threads=1, intra_op=0)),
            four_in_process=lambda: Figures(**in_process(version, "cnn", threads=4, intra_op=0)),
        )
    return {
        **medians(found),
        "rate over in process": ratio(found["ours"], found["in_process"], "rate"),
        "rate over 4 at a time in process": ratio(found["ours"], found["four_in_process"], "rate"),
    }


def job_workers(folder: Path, number: int) -> dict[str, Any]:
    """Tiny model over gRPC, 16 connections: two workers against one."""
    save(folder, "tiny")
    bodies = Bodies(folder, "tiny")
    two = embedded(folder, "tiny", *ONE_THREAD, "--workers=2")
    with running(one=embedded(folder, "tiny"), two=two) as there:
        found = rounds(number, **{name: _asking(server, bodies, 16) for name, server in there.items()})
    return {**medians(found), "rate over one worker": ratio(found["two"], found["one"], "rate")}


def job_batching(folder: Path, number: int) -> dict[str, Any]:
    """A weight-bound model over gRPC, 64 connections: with batching against without."""
    save(folder, "wide")
    bodies = Bodies(folder, "wide")
    parameters = folder / "batching.txt"
    # The weights pass through the memory for every run, so that runs side by side only make each other wait.
    parameters.write_text(
        "max_batch_size { value: 64 } batch_timeout_micros { value: 0 } max_enqueued_batches { value: 100 } "
        "num_batch_threads { value: 1 }\n"
    )
    flags = ("--tensorflow_intra_op_parallelism=1", "--grpc_max_threads=64")
    batched = embedded(folder, "wide", *flags, "--enable_batching", f"--batching_parameters_file={parameters}")
    with running(alone=embedded(folder, "wide", *flags), batched=batched) as there:
        found = rounds(number, **{name: _asking(server, bodies, 64) for name, server in there.items()})
        one = rounds(number, **{name: _asking(server, bodies, 1) for name, server in there.items()})
    return {
        **medians(found),
        "rate over unbatched": ratio(found["batched"], found["alone"], "rate"),
        "one connection": medians(one),
        "one connection: latency over unbatched": ratio(one["batched"], one["alone"], "latency_ms"),
    }


def job_start(folder: Path, number: int) -> dict[str, Any]:
    """From the command to an open port: against `import tensorflow` and loading the model."""
    save(folder, "tiny")
    code = f"import tensorflow as tf; tf.saved_model.load({str(folder / 'tiny/1')!r})"
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    for done in range(number + 1):
        started = time.perf_counter()
        server = embedded(folder, "tiny")
        ours = time.perf_counter() - started
        server.stop()
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        bare = time.perf_counter() - started
        # The first round fills the disk's cache.
        if done:
            found["ours"].append(ours)
            found["bare"].append(bare)
            _say(f"  round {done} of {number}: ours {ours:.2f} s  bare {bare:.2f} s")
    ratios = [a / b for a, b in zip(found["ours"], found["bare"], strict=True)]
    return {
        "seconds": {name: statistics.median(some) for name, some in found.items()},
        "over bare": statistics.median(ratios),
    }


def job_handler(folder: Path, number: int) -> dict[str, Any]:
    """The gRPC handler of predict alone, from bytes to bytes: its CPU with TensorFlow, and beyond it."""
    save(folder, "tiny")
    return _child("handler", str(folder / "tiny/1"), str(number))


def in_process(version: Path, name: str, threads: int, intra_op: int) -> dict[str, float]:
    """Figures of calling a model in a process of its own with so many threads, each call with `intra_op` more."""
    return _child("in-process", str(version), name, str(threads), str(intra_op))


def _child(*job: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.in_process", *job]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return json.loads(said)  # type: ignore[no-any-return]


def _asking(server: Server, bodies: Bodies, connections: int, *, rest: bool = False, seconds: float = SECONDS) -> Asked:
    return lambda: load(server, bodies, connections, rest=rest, seconds=seconds)


JOBS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "handler": job_handler,
    "grpc": job_grpc,
    "rest": job_rest,
    "image": job_image,
    "model": job_model,
    "workers": job_workers,
    "batching": job_batching,
    "start": job_start,
}
WITHOUT_LOAD = {"handler", "start"}


def main() -> None:
    """Does what the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], default=[], metavar="job")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--list", action="store_true", help="say what each job measures")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:10}{job.__doc__}" for name, job in JOBS.items()))
        return
    jobs = arguments.jobs or JOBS
    if shutil.which("h2load") is None and not set(jobs) <= WITHOUT_LOAD:
        raise SystemExit("h2load is needed; Debian has it in nghttp2-client")
    result = {}
    for name in jobs:
        _say(f"{name}: {JOBS[name].__doc__}")
        with tempfile.TemporaryDirectory() as folder:
            result[name] = JOBS[name](Path(folder), arguments.rounds)
    print(json.dumps(result, indent=2))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
