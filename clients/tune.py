"""Tuning: which batching parameters give a model the most throughput under a limit on latency.

    no batching ──► the first parameters ──► one of them changed, the better ones kept ──► … ──► nothing is better

For each candidate a model server of its own is started, loaded, measured and stopped. The parameters and their meaning:
https://github.com/tensorflow/serving/tree/master/tensorflow_serving/batching
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tfserving.clients.bench.load import Step
from tfserving.clients.client import connect
from tfserving.clients.errors import ServingError
from tfserving.foundation.last_words import last_words
from tfserving.foundation.model_server import VARIABLE, find_model_server, no_model_server
from tfserving.foundation.temporary import temporary_folder

LONGEST_START = 120.0
LONGEST_STOP = 30.0
# Far more than clients keep waiting: what is measured is the batching, not what is turned away.
MOST_ENQUEUED = 1000
# Likewise: TensorFlow Serving has 4 threads for each CPU by default, refuses more gRPC calls, and lets REST calls wait.
_THREADS = ("--grpc_max_threads=1024", "--rest_api_num_threads=256")
# Another candidate must be better by more than what a measurement varies.
BETTER = 1.03


class EngineError(Exception):
    """A model server could not be started; the text has the end of what it said."""


@dataclass(frozen=True)
class Parameters:
    """What `--batching_parameters_file` says; `allowed_batch_sizes` empty is any up to `max_batch_size`."""

    max_batch_size: int
    batch_timeout_micros: int
    num_batch_threads: int
    allowed_batch_sizes: tuple[int, ...] = ()

    def text(self) -> str:
        """As a text BatchingParameters."""
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
    """The values that are tried; with `padding` also batch sizes in powers of two."""

    max_batch_size: Sequence[int] = (4, 16, 64, 128)
    batch_timeout_micros: Sequence[int] = (0, 1000, 5000)
    num_batch_threads: Sequence[int] = tuple(dict.fromkeys((1, 2, os.cpu_count() or 1)))
    padding: bool = True

    def first(self) -> Parameters:
        """Where the search begins: in the middle."""

        def middle(values: Sequence[int]) -> int:
            return sorted(values)[len(values) // 2]

        return Parameters(middle(self.max_batch_size), middle(self.batch_timeout_micros), min(self.num_batch_threads))

    def changes(self, of: Parameters) -> list[list[Parameters]]:
        """For each parameter, what `of` is with its other values."""
        sizes = [_sized(replace(of, max_batch_size=size)) for size in self.max_batch_size]
        timeouts = [replace(of, batch_timeout_micros=timeout) for timeout in self.batch_timeout_micros]
        threads = [replace(of, num_batch_threads=number) for number in self.num_batch_threads]
        padded = [of, _sized(replace(of, allowed_batch_sizes=(1,)))] if self.padding else []
        return [sizes, timeouts, threads, padded]


@dataclass(frozen=True)
class Candidate:
    """Parameters, None for no batching, and what came of them; without a `step`, why they can't be served."""

    parameters: Parameters | None
    step: Step | None
    trouble: str = ""

    @property
    def throughput(self) -> float:
        """Requests answered a second."""
        return self.step.throughput if self.step else 0.0

    def keeps(self, limit: tuple[str, float] | None) -> bool:
        """Whether every request was answered, and in time."""
        if self.step is None or self.step.failed:
            return False
        return limit is None or self.step.latency(limit[0]) <= limit[1]


def search(
    measure: Callable[[Parameters | None], Step], space: Space, limit: tuple[str, float] | None
) -> list[Candidate]:
    """All candidates that were measured; the best is `best` of them.

    One parameter after the other takes the value that is best with the others as they are, until none changes.
    """
    found: dict[Parameters | None, Candidate] = {}

    def tried(parameters: Parameters | None) -> Candidate:
        if parameters not in found:
            try:
                found[parameters] = Candidate(parameters, measure(parameters))
            except EngineError as error:
                if parameters is None:
                    raise
                # Its warm-up has more rows than a batch may have, say.
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
    return list(found.values())


def best(candidates: Sequence[Candidate], limit: tuple[str, float] | None) -> Candidate | None:
    """The one with the most throughput of those that keep `limit`; None when none does."""
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
    """With batch sizes up to the largest, in powers of two, if there are any."""
    if not parameters.allowed_batch_sizes:
        return parameters
    sizes = [1 << power for power in range(parameters.max_batch_size.bit_length())]
    sizes = [size for size in sizes if size < parameters.max_batch_size]
    return replace(parameters, allowed_batch_sizes=(*sizes, parameters.max_batch_size))


def default_engine() -> list[str]:
    """The command of TensorFlow Serving, if this machine has it, else the embedded server's.

    Raises EngineError when TENSORFLOW_MODEL_SERVER names no program.
    """
    native = find_model_server()
    if native is None and os.environ.get(VARIABLE):
        raise EngineError(no_model_server())
    return [native] if native else [sys.executable, "-m", "tfserving.serving.embedded"]


@contextmanager
def engine(
    command: Sequence[str], model: str, folder: Path, parameters: Parameters | None
) -> Iterator[Mapping[str, str]]:
    """A model server over the model in `folder`; its URLs by protocol. Raises EngineError when it doesn't start."""
    ports = _free_ports()
    with temporary_folder("the parameters and the log of each server", "tune-") as temporary:
        file, log = temporary / "batching_parameters.txt", temporary / "log"
        flags = [f"--port={ports['grpc']}", f"--rest_api_port={ports['rest']}"]
        flags += [flag for flag in _THREADS if not any(part.startswith(flag.partition("=")[0]) for part in command)]
        flags += ["--max_num_load_retries=0", f"--model_name={model}", f"--model_base_path={folder.resolve()}"]
        if parameters is not None:
            file.write_text(parameters.text())
            flags += ["--enable_batching=true", f"--batching_parameters_file={file}"]
        with log.open("w") as output:
            try:
                process = subprocess.Popen([*command, *flags], stdout=output, stderr=output, start_new_session=True)
            except OSError as error:
                raise EngineError(f"the model server {command[0]} can't be run: {error.strerror}") from None
        try:
            urls = {"grpc": f"grpc://127.0.0.1:{ports['grpc']}", "rest": f"http://127.0.0.1:{ports['rest']}"}
            _wait(process, urls["grpc"], model, log)
            yield urls
        finally:
            process.terminate()
            try:
                process.wait(LONGEST_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, model: str, log: Path) -> None:
    """Waits until the model is available, or the server has ended."""
    with connect(url) as client:
        for _ in range(int(LONGEST_START)):
            try:
                client.wait_until_available(model, timeout=1.0)
            except ServingError as error:
                trouble = f"is not ready after {LONGEST_START:g} s ({error.text})"
                if process.poll() is not None:
                    trouble = f"ended with exit code {process.returncode}"
                    break
            else:
                return
    said = last_words(log.read_text(errors="replace").splitlines())
    raise EngineError(f"the model server {trouble}; its last words:\n{said}")


def _free_ports() -> dict[str, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return {"grpc": int(one.getsockname()[1]), "rest": int(other.getsockname()[1])}
