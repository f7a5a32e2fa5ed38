"""Tuning: a search for the batching parameters with the highest throughput under a limit on latency.

    no batching ──► the first parameters ──► change one, keep the better ones ──► … ──► no change is better

Each candidate gets a model server of its own, which is started, measured and stopped. The parameters are documented at
https://github.com/tensorflow/serving/tree/master/tensorflow_serving/batching

On a GPU each new batch size takes up to seconds, and one batch runs at a time. So all candidates there have padded
sizes, and one or two threads.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tfserving.clients.bench.load import Step
from tfserving.clients.client import connect
from tfserving.clients.errors import ServingError
from tfserving.foundation.batch_sizes import powers_of_two
from tfserving.foundation.devices import DEVICES, Device, device_kind
from tfserving.foundation.gpus import TF32_OVERRIDE, visible_gpus
from tfserving.foundation.last_words import last_words
from tfserving.foundation.model_server import VARIABLE, find_model_server, no_model_server
from tfserving.foundation.programs import end_with_parent
from tfserving.foundation.temporary import temporary_folder

# With the warm-up: XLA takes up to 13 s for each batch size on a GPU.
LONGEST_START = 300.0
LONGEST_STOP = 30.0
# Far more than there are requests in flight, so that the server rejects none.
MOST_ENQUEUED = 1000
# Likewise: TensorFlow Serving has 4 threads for each CPU by default, rejects more gRPC calls, and queues REST calls.
# Without the last one it compiles no version that was exported with `--xla`.
_MORE_FLAGS = ("--grpc_max_threads=1024", "--rest_api_num_threads=256", "--xla_cpu_compilation_enabled=true")
# https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/common_runtime/gpu/gpu_device.cc
CREATED = re.compile(r"Created device \S*device:GPU:")
# A candidate must be better by more than the variation of measurements.
BETTER = 1.03


class StartError(Exception):
    """A model server failed to start; the text ends with the last lines of its log."""


@dataclass(frozen=True)
class Parameters:
    """The content of `--batching_parameters_file`. Empty `allowed_batch_sizes` allow any up to `max_batch_size`."""

    max_batch_size: int
    batch_timeout_micros: int
    num_batch_threads: int
    allowed_batch_sizes: tuple[int, ...] = ()

    def text(self) -> str:
        """Return it as BatchingParameters in text form."""
        values = {
            "max_batch_size": self.max_batch_size,
            "batch_timeout_micros": self.batch_timeout_micros,
            "num_batch_threads": self.num_batch_threads,
            "max_enqueued_batches": MOST_ENQUEUED,
        }
        lines = [f"{name} {{ value: {value} }}" for name, value in values.items()]
        lines += [f"allowed_batch_sizes: {size}" for size in self.allowed_batch_sizes]
        return "\n".join([*lines, ""])

    def __str__(self) -> str:
        sizes = f", sizes {'/'.join(map(str, self.allowed_batch_sizes))}" if self.allowed_batch_sizes else ""
        return (
            f"up to {self.max_batch_size} in {self.batch_timeout_micros} µs, {self.num_batch_threads} "
            f"thread{'' if self.num_batch_threads == 1 else 's'}{sizes}"
        )


@dataclass(frozen=True)
class Space:
    """The values to try. `padding` is whether batches are padded to sizes in powers of two; None: both ways."""

    max_batch_size: Sequence[int] = (4, 16, 64, 128)
    batch_timeout_micros: Sequence[int] = (0, 1000, 5000)
    num_batch_threads: Sequence[int] = tuple(dict.fromkeys((1, 2, os.cpu_count() or 1)))
    padding: bool | None = None

    def first(self) -> Parameters:
        """Return the start of the search, in the middle."""

        def middle(values: Sequence[int]) -> int:
            return sorted(values)[len(values) // 2]

        threads = min(self.num_batch_threads)
        found = Parameters(middle(self.max_batch_size), middle(self.batch_timeout_micros), threads)
        return _padded(found) if self.padding else found

    def changes(self, of: Parameters) -> list[list[Parameters]]:
        """Return for each parameter the variants of `of` with its other values."""
        sizes = [_sized(replace(of, max_batch_size=size)) for size in self.max_batch_size]
        timeouts = [replace(of, batch_timeout_micros=timeout) for timeout in self.batch_timeout_micros]
        threads = [replace(of, num_batch_threads=number) for number in self.num_batch_threads]
        padded = [of, _padded(of)] if self.padding is None else []
        return [sizes, timeouts, threads, padded]


# The defaults for a server on a GPU.
ON_A_GPU = Space(max_batch_size=(16, 32, 64, 128), num_batch_threads=(1, 2), padding=True)
# Requests at a time, unless they are given. Two batches run or wait.
CONCURRENCY, CONCURRENCY_ON_A_GPU = 32, 128


@dataclass(frozen=True)
class Running:
    """A server: its URLs by protocol, and the kind of device that it computes on."""

    urls: Mapping[str, str]
    device: Device


@dataclass(frozen=True)
class Candidate:
    """Parameters, None for no batching, and their result. Without a `step`, `trouble` is why the server failed."""

    parameters: Parameters | None
    step: Step | None
    trouble: str = ""

    @property
    def throughput(self) -> float:
        """Successful requests a second."""
        return self.step.throughput if self.step else 0.0

    def keeps(self, limit: tuple[str, float] | None) -> bool:
        """Return whether every request succeeded within the limit."""
        if self.step is None or self.step.failed:
            return False
        return limit is None or self.step.latency(limit[0]) <= limit[1]


def search(
    measure: Callable[[Parameters | None], Step],
    space: Space,
    limit: tuple[str, float] | None,
    found: dict[Parameters | None, Candidate],
) -> None:
    """Measure candidates and add them to `found`.

    One parameter after the other gets the value that is best with the current values of the others, until none changes.
    """

    def tried(parameters: Parameters | None) -> Candidate:
        if parameters not in found:
            try:
                found[parameters] = Candidate(parameters, measure(parameters))
            except StartError as error:
                if parameters is None:
                    raise
                # For example, its warm-up requests have more rows than a batch allows.
                found[parameters] = Candidate(parameters, None, str(error))
        return found[parameters]

    tried(None)
    current = tried(space.first())
    changed = True
    while changed:
        changed = False
        for number in range(len(space.changes(space.first()))):
            assert current.parameters is not None
            for parameters in space.changes(current.parameters)[number]:
                candidate = tried(parameters)
                if _is_better(candidate, current, limit):
                    current, changed = candidate, True


def best(candidates: Iterable[Candidate], limit: tuple[str, float] | None) -> Candidate | None:
    """Return the candidate with the highest throughput within `limit`; None when none is."""
    kept = [candidate for candidate in candidates if candidate.keeps(limit)]
    return max(kept, key=lambda candidate: candidate.throughput, default=None)


def _is_better(one: Candidate, other: Candidate, limit: tuple[str, float] | None) -> bool:
    if one.keeps(limit) != other.keeps(limit):
        return one.keeps(limit)
    if one.step is None or other.step is None:
        return other.step is None and one.step is not None
    if limit is not None and not one.keeps(limit):
        return one.step.latency(limit[0]) * BETTER < other.step.latency(limit[0])
    return one.throughput > BETTER * other.throughput


def _sized(parameters: Parameters) -> Parameters:
    """Return `parameters` with batch sizes in powers of two up to the largest, if they have batch sizes."""
    if not parameters.allowed_batch_sizes:
        return parameters
    return _padded(parameters)


def _padded(parameters: Parameters) -> Parameters:
    return replace(parameters, allowed_batch_sizes=powers_of_two(parameters.max_batch_size))


def default_command() -> list[str]:
    """Return the command of TensorFlow Serving if this machine has it, else that of the embedded server.

    Raises StartError when TENSORFLOW_MODEL_SERVER names no program.
    """
    native = find_model_server()
    if native is None and os.environ.get(VARIABLE):
        raise StartError(no_model_server())
    return [native] if native else [sys.executable, "-m", "tfserving.serving.embedded"]


@contextmanager
def running_server(
    command: Sequence[str], model: str, folder: Path, parameters: Parameters | None
) -> Iterator[Running]:
    """Run a server with the model in `folder`, and return it. Raises StartError when it doesn't start.

    It computes float32 without TF32, unless NVIDIA_TF32_OVERRIDE is set, or the command has --enable_tf32.
    """
    environment = dict(os.environ)
    if not any(part.startswith("--enable_tf32") for part in command):
        environment.setdefault(TF32_OVERRIDE, "0")
    ports = _free_ports()
    with temporary_folder("the parameters and the log of each server", "tune-") as temporary:
        file, log = temporary / "batching_parameters.txt", temporary / "log"
        flags = [f"--port={ports['grpc']}", f"--rest_api_port={ports['rest']}"]
        flags += [flag for flag in _MORE_FLAGS if not any(part.startswith(flag.partition("=")[0]) for part in command)]
        flags += ["--max_num_load_retries=0", f"--model_name={model}", f"--model_base_path={folder.resolve()}"]
        if parameters is not None:
            file.write_text(parameters.text())
            flags += ["--enable_batching=true", f"--batching_parameters_file={file}"]
        with log.open("w") as output:
            try:
                process = subprocess.Popen(
                    [*command, *flags],
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,
                    preexec_fn=lambda: end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - it only calls prctl
                )
            except OSError as error:
                raise StartError(f"the server command {command[0]!r} can't be run: {error.strerror}") from None
        try:
            urls = {"grpc": f"grpc://127.0.0.1:{ports['grpc']}", "rest": f"http://127.0.0.1:{ports['rest']}"}
            named = _wait(process, urls["grpc"], model, log)
            yield Running(urls, named or _device(log, environment))
        finally:
            process.terminate()
            try:
                process.wait(LONGEST_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, model: str, log: Path) -> Device | None:
    """Wait until the model is available; return the device that the server names.

    Raises StartError when the server ends first.
    """
    with connect(url) as client:
        for _ in range(int(LONGEST_START)):
            try:
                client.wait_until_available(model, timeout=1.0)
                named = client.status(model)[0].device
            except ServingError as error:
                trouble = f"isn't ready after {LONGEST_START:g} s ({error.text})"
                if process.poll() is not None:
                    trouble = f"ended with exit code {process.returncode}"
                    break
            else:
                return next((device for device in DEVICES if device == named), None)
    lines = last_words(log.read_text(errors="replace").splitlines())
    raise StartError(f"the model server {trouble}. The end of its log:\n{lines}")


def _device(log: Path, environment: Mapping[str, str]) -> Device:
    """Return the device of a server that names none: TensorFlow Serving logs that TensorFlow created a GPU's device.

    Where such lines are turned off, the GPUs are those of this machine.
    """
    text, gpus = log.read_text(errors="replace"), visible_gpus()
    quiet = environment.get("TF_CPP_MIN_LOG_LEVEL", "0") != "0"
    found = bool(CREATED.search(text)) or (quiet and bool(gpus))
    tf32 = environment.get(TF32_OVERRIDE) != "0" and (not gpus or any(gpu.has_tf32 for gpu in gpus))
    return device_kind(gpu=found, tf32=tf32)


def _free_ports() -> dict[str, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return {"grpc": int(one.getsockname()[1]), "rest": int(other.getsockname()[1])}
