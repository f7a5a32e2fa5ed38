"""Measure the cost of serving: the embedded server, TensorFlow Serving, other Python servers and bare echoes.

    python -m tests.bench.serving_cost --into docs/performance.json              all jobs
    python -m tests.bench.serving_cost --into docs/performance.json grpc rest    some of them, the others' results stay
    python -m tests.bench.serving_cost --before ../old grpc rest                 with the server of another checkout
    python -m tests.bench.serving_cost --list

Compared servers run in turn, for several rounds. The results contain the figures of each round. `tests.bench.page`
makes the tables and the picture of docs/performance.md from them.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.bench import servers
from tests.bench.load import Figures, Server, h2load_version, running, say
from tests.bench.saved_models import Model, save
from tests.serving.embedded.running import ROOT
from tfserving.foundation.files import written_whole
from tfserving.foundation.model_server import find_model_server, no_model_server

CONNECTIONS = (1, 8, 32)
TRANSPORTS = ("native", "grpcio")
# The jobs that measure the servers of tests/bench/others.
WITH_OTHERS = {"rest", "json_image"}
# Those that need h2load are all but these.
WITHOUT_LOAD = {"start", "handler"}
# Each figure's values, one a round.
Rounds = dict[str, list[float]]


@dataclass(frozen=True)
class Run:
    """Where models are saved, how many rounds there are, and a checkout of the repository as it was before."""

    folder: Path
    rounds: int
    before: Path | None = None

    def in_turn(self, measured: Mapping[str, Callable[[], Figures]]) -> dict[str, Rounds]:
        """The figures of each of `measured`, in turn, `rounds` times, with the digits that mean something."""
        found: dict[str, Rounds] = {name: {} for name in measured}
        for done in range(self.rounds):
            for name, measure in measured.items():
                figures = {key: float(f"{value:.4g}") for key, value in measure().items()}
                for key, value in figures.items():
                    found[name].setdefault(key, []).append(value)
                say(f"  round {done + 1} of {self.rounds}: {name:20} {figures}")
        return found

    def loads(self, there: Mapping[str, Server], *connections: int) -> dict[str, dict[str, Rounds]]:
        """The figures of each server under load, by the number of connections."""
        found = {}
        for number in connections:
            say(f"  {number} connections")
            found[str(number)] = self.in_turn(
                {name: functools.partial(server.load, number) for name, server in there.items()}
            )
        return found

    def own_and_real(self, model: Model, *, rest: bool) -> dict[str, Server]:
        """The embedded server, over gRPC with each of its transports, as it was before, and TensorFlow Serving."""
        if rest:
            started = {"embedded": servers.embedded(model, rest=True)}
        else:
            started = {name: servers.embedded(model, f"--grpc_transport={name}") for name in TRANSPORTS}
        if self.before:
            started["before"] = servers.embedded(model, rest=rest, checkout=self.before)
        if find_model_server():
            started["tensorflow_serving"] = servers.tensorflow_serving(model, rest=rest)
        return started


def job_grpc(run: Run) -> dict[str, Any]:
    """The tiny model over gRPC: the embedded server, TensorFlow Serving, a naive server, grpcio's echo."""
    model = save(run.folder, "tiny")
    started = {
        **run.own_and_real(model, rest=False),
        "echo": servers.echo(model),
        "naive": servers.naive(model),
    }
    with running(started) as there:
        return run.loads(there, *CONNECTIONS)


def _all_over_rest(run: Run, model: Model) -> dict[str, Server]:
    return {
        **run.own_and_real(model, rest=True),
        "fastapi": servers.fastapi(model),
        "mlserver": servers.mlserver(model),
        "bentoml": servers.bentoml(model),
        "naive": servers.naive(model, rest=True),
    }


def job_rest(run: Run) -> dict[str, Any]:
    """The tiny model over REST: the embedded server, TensorFlow Serving, FastAPI, MLServer, BentoML, a naive server."""
    with running(_all_over_rest(run, save(run.folder, "tiny"))) as there:
        return run.loads(there, *CONNECTIONS)


def job_image(run: Run) -> dict[str, Any]:
    """An image of 224x224x3 over gRPC, 8 connections: the embedded server, TensorFlow Serving, grpcio's echo."""
    model = save(run.folder, "image")
    with running({**run.own_and_real(model, rest=False), "echo": servers.echo(model)}) as there:
        return run.loads(there, 8)


def job_json_image(run: Run) -> dict[str, Any]:
    """The same image as JSON over REST, 8 connections: the servers of `rest`."""
    with running(_all_over_rest(run, save(run.folder, "image"))) as there:
        return run.loads(there, 8)


def job_workers(run: Run) -> dict[str, Any]:
    """The tiny model, 32 connections, over gRPC and over REST: one, two and four worker processes."""
    model = save(run.folder, "tiny")
    found = {}
    for protocol in ("grpc", "rest"):
        say(f"  {protocol}")
        started = {
            str(count): servers.embedded(model, f"--workers={count}", rest=protocol == "rest") for count in (1, 2, 4)
        }
        with running(started) as there:
            found[protocol] = run.loads(there, 32)["32"]
    return found


def job_model(run: Run) -> dict[str, Any]:
    """A model of 5 ms over gRPC, 4 connections, against one and four callers in process."""
    model = save(run.folder, "cnn")
    with running(run.own_and_real(model, rest=False)) as there:
        measured: dict[str, Callable[[], Figures]] = {
            name: functools.partial(server.load, 4) for name, server in there.items()
        }
        for callers in (1, 4):
            job = ("in-process", str(model.version), model.name, str(callers))
            measured[f"{callers} in process"] = functools.partial(_child, *job)
        return run.in_turn(measured)


def job_batching(run: Run) -> dict[str, Any]:
    """A weight-bound model over gRPC, 1 and 64 connections: with batching and without."""
    model = save(run.folder, "wide")
    parameters = run.folder / "batching.txt"
    # The weights pass through the memory for every run, so that runs side by side only make each other wait.
    parameters.write_text(
        "max_batch_size { value: 64 } batch_timeout_micros { value: 0 } max_enqueued_batches { value: 100 } "
        "num_batch_threads { value: 1 }\n"
    )
    flags = ("--tensorflow_intra_op_parallelism=1", "--grpc_max_threads=64")
    batching = (*flags, "--enable_batching", f"--batching_parameters_file={parameters}")
    started = {"unbatched": servers.embedded(model, *flags), "batched": servers.embedded(model, *batching)}
    if run.before:
        started["before"] = servers.embedded(model, *batching, checkout=run.before)
    with running(started) as there:
        return run.loads(there, 1, 64)


def job_start(run: Run) -> dict[str, Any]:
    """Seconds from the command to the first right response, against `import tensorflow` and loading the model."""
    model = save(run.folder, "tiny")
    code = f"import tensorflow as tf; tf.saved_model.load({str(model.version)!r})"

    def embedded(checkout: Path = ROOT) -> Figures:
        started = time.perf_counter()
        with running({"embedded": servers.embedded(model, checkout=checkout)}):
            return {"seconds": time.perf_counter() - started}

    def bare() -> Figures:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return {"seconds": time.perf_counter() - started}

    measured = {"embedded": embedded, "bare": bare}
    if run.before:
        measured["before"] = functools.partial(embedded, run.before)
    # Fills the disk's cache.
    for measure in measured.values():
        measure()
    return run.in_turn(measured)


def job_handler(run: Run) -> dict[str, Any]:
    """The gRPC handler of predict alone, from bytes to bytes: its CPU with TensorFlow, and beyond it."""
    version = save(run.folder, "tiny").version
    return run.in_turn({"handler": functools.partial(_child, "handler", str(version))})


def _child(*job: str) -> Figures:
    command = [sys.executable, "-m", "tests.bench.in_process", *job]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return json.loads(said)  # type: ignore[no-any-return]


JOBS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "grpc": job_grpc,
    "rest": job_rest,
    "image": job_image,
    "json_image": job_json_image,
    "workers": job_workers,
    "model": job_model,
    "batching": job_batching,
    "start": job_start,
    "handler": job_handler,
}


def circumstances(jobs: Collection[str]) -> dict[str, Any]:
    """What a reader must know of the figures: when they were measured, on what machine, with which versions."""
    program = find_model_server()
    found = {name: version(name) for name in ("tensorflow", "grpcio", "pygrpc-native")}
    if program:
        said = subprocess.check_output([program, "--version"], text=True, stderr=subprocess.STDOUT)
        found["tensorflow_model_server"] = said.splitlines()[0].rpartition(": ")[2]
    if WITH_OTHERS & {*jobs}:
        found |= {name: servers.version(name) for name in ("fastapi", "mlserver", "bentoml")}
    if not {*jobs} <= WITHOUT_LOAD:
        found["h2load"] = h2load_version()
    return {
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        "processor": processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "python": platform.python_version(),
        "versions": found,
    }


def processor() -> str:
    """The processor's name, as Linux has it."""
    names = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], default=[], metavar="job")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--into", type=Path, metavar="FILE", help="write the results to FILE, not to the output")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="a checkout whose embedded server takes part")
    parser.add_argument("--list", action="store_true", help="list what each job measures")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:12}{job.__doc__}" for name, job in JOBS.items()))
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Ends the servers, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    jobs = arguments.jobs or [*JOBS]
    measured = {"rounds": arguments.rounds, **circumstances(jobs)}
    if arguments.before:
        show = ["git", "-C", arguments.before, "rev-parse", "--short", "HEAD"]
        measured["versions"]["before"] = subprocess.check_output(show, text=True).strip()
    if not find_model_server():
        say(f"TensorFlow Serving is left out: {no_model_server()}")
    before = arguments.before and arguments.before.resolve()
    results = json.loads(arguments.into.read_text()) if arguments.into and arguments.into.exists() else {}
    started = time.monotonic()
    for name in jobs:
        say(f"{name}: {JOBS[name].__doc__}")
        with tempfile.TemporaryDirectory() as folder:
            results[name] = {**measured, "results": JOBS[name](Run(Path(folder), arguments.rounds, before))}
    say(f"measured in {(time.monotonic() - started) / 60:.0f} minutes")
    text = json.dumps({name: results[name] for name in JOBS if name in results}, indent=1) + "\n"
    # A figure's rounds in one line.
    text = re.sub(r"\[[^][{}]+\]", lambda found: " ".join(found[0].split()), text)
    if arguments.into:
        with written_whole(arguments.into) as file:
            file.write(text.encode())
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
