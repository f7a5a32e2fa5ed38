"""What the checks share: time, processes, servers, and the memory of the GPU."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gpu.record import Record, SkippedError
from tfserving.foundation.gpus import visible_gpus
from tfserving.foundation.programs import end_group

ROOT = Path(__file__).resolve().parents[2]
CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "-1"}
_MIB = 1 << 20
_POLL_SECONDS = 0.05
# The last check ends this long before the time is over, so that all processes end in it.
_END_SECONDS = 12.0
_STOP_SECONDS = 10.0
# What is read of an output: results are far smaller.
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Finished:
    """A process that ended: its code, None if it was ended after its time, and what it printed."""

    code: int | None
    stdout: str
    stderr: str
    seconds: float

    def json(self) -> Any:
        """Return the JSON that it printed. Raises RuntimeError with the end of its stderr when it printed none."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            ended = "did not end in its time" if self.code is None else f"exited with {self.code}"
            raise RuntimeError(f"the command {ended} and printed no JSON; stderr: {self.stderr[-800:]}") from None


class Process:
    """A process in a group of its own, whose streams go to files in `folder`."""

    def __init__(self, words: Sequence[str], folder: Path, name: str, env: Mapping[str, str]) -> None:
        self.words = tuple(words)
        self._began = time.monotonic()
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                words, cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float) -> Finished:
        """Wait until it ends; after `seconds` it is ended with all that it started."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        code = self.process.poll()
        if code is None:
            end_group(self.process)
        return Finished(code, self.stdout(), self.stderr(), round(time.monotonic() - self._began, 2))

    def stop(self) -> int:
        """End it as a user does, and all in its group when it doesn't end; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_SECONDS)
        end_group(self.process)
        return self.process.wait()

    def stdout(self) -> str:
        return _end_of(self._out)

    def stderr(self) -> str:
        return _end_of(self._err)

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._began


class Server:
    """An embedded server of the versions in FOLDER/MODEL, as `python -m tfserving.serving.embedded` starts it."""

    def __init__(self, process: Process, grpc: int, rest: int) -> None:
        self.process, self.grpc, self.rest = process, grpc, rest
        self.ready_seconds: float | None = None

    @property
    def grpc_url(self) -> str:
        return f"grpc://127.0.0.1:{self.grpc}"

    @property
    def urls(self) -> str:
        return f"{self.grpc_url},http://127.0.0.1:{self.rest}"

    @property
    def log(self) -> str:
        return self.process.stdout() + self.process.stderr()

    def starts(self, seconds: float) -> bool:
        """Wait until its ports are open, which they are when all models are available; False when it ended before."""
        deadline = time.monotonic() + seconds
        while self.process.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.grpc), timeout=1):
                self.ready_seconds = round(self.process.age, 1)
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def must_start(self, seconds: float) -> None:
        """As `starts`, but raises RuntimeError with the end of its log."""
        if not self.starts(seconds):
            raise RuntimeError(f"the server {self.process.words[3:]} is not ready: {self.log[-1500:]}")


class Lab:
    """The place of the checks: the folder `work`, the record, and the time that is left."""

    def __init__(self, work: Path, record: Record, *, minutes: float, tiny: bool) -> None:
        self.work, self.record, self.tiny = work, record, tiny
        self._deadline = time.monotonic() + 60 * minutes - _END_SECONDS
        self._until = self._deadline
        self._running: list[Process] = []
        self._ending: list[Server] = []
        self._names = 0

    def check(self, name: str, seconds: float, function: Callable[[], None], reason: str = "") -> None:
        """Run a check, which may wait for `seconds` at most; with a `reason`, or no time left, it is skipped.

        Servers that it started end with it, unless they are kept.
        """
        what = (function.__doc__ or "").strip().partition("\n")[0]
        if time.monotonic() > self._deadline:
            reason = "the time of the run was over"
        if reason:
            self.record.skip(name, what, reason)
            return
        # A test of the script may run on a busy machine; only the time of the run limits it.
        self._until = self._deadline if self.tiny else min(self._deadline, time.monotonic() + seconds)
        self.record.run(name, what, function)
        for server in self._ending:
            server.process.stop()
        self._ending.clear()

    def remaining(self, most: float = float("inf")) -> float:
        """Return the seconds that the running check may still wait, at most `most`. Raises Skipped when none are."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise SkippedError("its time was over")
        return left if self.tiny else min(most, left)

    def start(self, words: Sequence[str], name: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a process that ends with the lab. `name` is that of the files of its streams."""
        self._names += 1
        inherited = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        if self.tiny:
            inherited["TFSERVING_GPU_CHECKS"] = "tiny"
        process = Process(words, self.work, f"{self._names:02d}-{name}", {**inherited, **(env or {})})
        self._running.append(process)
        return process

    def run(self, words: Sequence[str], name: str, env: Mapping[str, str] | None = None, most: float = 120) -> Finished:
        """Run a process to its end, for at most the time of the running check."""
        self.remaining()
        return self.start(words, name, env).wait(self.remaining(most))

    def tool(self, *words: str, env: Mapping[str, str] | None = None, most: float = 120) -> Finished:
        """Run `tfserving WORDS`."""
        return self.run([sys.executable, "-m", "tfserving", *words], words[0], env, most)

    def server(self, name: str, models: Mapping[str, Path], *flags: str, kept: bool = False) -> Server:
        """Start an embedded server of the model folders `models`, by name; it ends with the check, or is kept."""
        config = self.work / f"{name}.config"
        config.write_text(
            "model_config_list {\n"
            + "".join(
                f"  config {{ name: {json.dumps(model)} base_path: {json.dumps(str(folder))} "
                'model_platform: "tensorflow" }\n'
                for model, folder in models.items()
            )
            + "}\n"
        )
        grpc, rest = free_ports(2)
        words = (sys.executable, "-m", "tfserving.serving.embedded", f"--port={grpc}", f"--rest_api_port={rest}")
        more = (f"--model_config_file={config}", "--max_num_load_retries=0", "--drain_seconds=3", *flags)
        server = Server(self.start([*words, *more], f"server-{name}"), grpc, rest)
        if not kept:
            self._ending.append(server)
        return server

    def used_mib(self) -> int | None:
        """Return the memory of the first GPU that is in use, in MiB, by all processes; None without a GPU."""
        gpus = visible_gpus()
        return None if not gpus or gpus[0].used is None else gpus[0].used // _MIB

    def settled_mib(self) -> int | None:
        """Return `used_mib` once two readings agree: a process ends a moment before its memory is free."""
        before, deadline = self.used_mib(), time.monotonic() + 5
        while before is not None and time.monotonic() < deadline:
            time.sleep(0.5)
            now = self.used_mib()
            if now == before:
                break
            before = now
        return before

    def close(self) -> None:
        """End all processes: servers drain, and what doesn't end in time is killed."""
        left = [process.process for process in self._running if process.process.poll() is None]
        for process in left:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS / 2
        while any(process.poll() is None for process in left) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        for process in left:
            end_group(process)


def free_ports(count: int) -> list[int]:
    """Return TCP ports on which nothing listens, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MOST_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
