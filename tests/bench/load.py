"""A server under measurement: a process that is started, checked, loaded by h2load, and stopped.

The load comes from h2load (Debian's nghttp2-client). CPU and memory are those of the server's processes, counted by the
kernel, the CPU divided by the number of requests.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import psutil

from tests.bench.formats import Format
from tests.bench.saved_models import Model
from tests.serving.embedded.running import ROOT

SECONDS = 2.0
WARM_UP = 0.5
START_SECONDS = 180.0
STOP_SECONDS = 30.0
LINE = re.compile(r"finished in .*?, ([0-9.]+) req/s")
COUNTS = re.compile(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored")


Figures = dict[str, float]


class Server:
    """A server in a process of its own, with the requests that it gets: each for the same row of `model`."""

    def __init__(self, model: Model, sent: Format, port: int, *command: str, checkout: Path = ROOT, **env: str) -> None:
        self.model, self.sent, self.port = model, sent, port
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - the server writes to it
        self._process = psutil.Popen(
            command,
            cwd=checkout,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(checkout), **env},
            stdout=self._log,
            stderr=self._log,
            # Ctrl-C is for the measurement, which then ends its servers.
            start_new_session=True,
        )

    def ready(self) -> None:
        """Waits until it returns the right result; raises SystemExit when it doesn't in time, or returns another."""
        deadline, found = time.monotonic() + START_SECONDS, "no response"
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                result = self.sent.send(self.port, self.model)
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
                time.sleep(0.02)
                continue
            if np.allclose(result, self.model.expected, 1e-4, 1e-5):
                return
            found = f"it returned {result}, expected {self.model.expected}"
            break
        self.stop()
        self._log.seek(0)
        raise SystemExit(f"{self._process.args} doesn't serve: {found}\n{self._log.read()[-4000:].decode()}")

    def load(self, connections: int, seconds: float = SECONDS) -> Figures:
        """Sends requests over so many connections, each its next one when it has its response.

        Returns `rate`: requests a second; `cpu_us`: microseconds of the server's CPU for each; `client_us`: of h2load's
        CPU; `p50_ms` and `p99_ms`: milliseconds until the response was there; `memory_mb`: the server's memory then.
        """
        with tempfile.TemporaryDirectory() as folder:
            body = Path(folder) / "body"
            body.write_bytes(self.sent.body(self.model))
            rate = self._h2load(body, connections, 2 * connections)
            rate = self._h2load(body, connections, int(rate * WARM_UP) + connections)
            count, times = int(rate * seconds) + connections, Path(folder) / "times"
            before, client = self._cpu(), _children_cpu()
            rate = self._h2load(body, connections, count, f"--log-file={times}")
            cpu, client = self._cpu() - before, _children_cpu() - client
            took = np.loadtxt(times, usecols=2, ndmin=1) / 1e3
        p50, p99 = (float(value) for value in np.percentile(took, (50, 99)))
        return {
            "rate": rate,
            "cpu_us": cpu / count * 1e6,
            "client_us": client / count * 1e6,
            "p50_ms": p50,
            "p99_ms": p99,
            "memory_mb": self._memory_mb(),
        }

    def _h2load(self, body: Path, connections: int, count: int, *more: str) -> float:
        """Requests a second, of so many. Not for a time: h2load hangs then when an HTTP/1 server closes connections."""
        how = ["-n", str(count), "-c", str(connections), "-m", "1", "-t", "1", "-d", str(body), *more]
        headers = [part for header in self.sent.headers for part in ("-H", header)]
        if not self.sent.grpc:
            headers.append("--h1")
        command = ["h2load", *how, *headers, f"http://127.0.0.1:{self.port}{self.sent.path(self.model)}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
        rate, counts = LINE.search(said), COUNTS.search(said)
        if rate is None or counts is None or int(counts[1]) != count:
            raise SystemExit(f"requests failed:\n{said}")
        return float(rate[1])

    def _family(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def _cpu(self) -> float:
        """Seconds of CPU that its processes have used."""
        return sum(times.user + times.system for times in (process.cpu_times() for process in self._family()))

    def _memory_mb(self) -> float:
        """Megabytes that its processes have written to. What is mapped from files, TensorFlow above all, is shared."""
        maps = [Path(f"/proc/{process.pid}/smaps_rollup").read_text() for process in self._family()]
        return sum(int(line.split()[1]) for one in maps for line in one.splitlines() if "Pss_Anon:" in line) / 1024

    def stop(self) -> None:
        """Ends it, however it is."""
        family = self._family() if self._process.poll() is None else []
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process.send_signal(signal.SIGTERM)
        for process in psutil.wait_procs(family, STOP_SECONDS)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


@contextlib.contextmanager
def running(servers: Mapping[str, Server]) -> Iterator[Mapping[str, Server]]:
    """The servers once each returned the right result; they are stopped in the end."""
    try:
        for server in servers.values():
            server.ready()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def h2load_version() -> str:
    """What h2load prints of itself; raises SystemExit where there is none."""
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is not on PATH; Debian's package nghttp2-client contains it")
    return subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]


def say(text: str) -> None:
    """Prints how far it is, where results don't go."""
    print(text, file=sys.stderr, flush=True)


def _children_cpu() -> float:
    """Seconds of CPU of the processes that ended: between two calls, h2load's."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
