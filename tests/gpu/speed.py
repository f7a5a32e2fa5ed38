"""Checks of speed: in process, served in batches to many clients, one row at a time, uint8, XLA, TF32."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from tests.gpu.exports import BATCH_SIZES, Exports, Models
from tests.gpu.lab import CPU_ONLY, Lab, Server
from tests.gpu.record import SkippedError
from tfserving.clients import connect
from tfserving.foundation.golden import read_golden
from tfserving.foundation.tensors import Array

MODELS = ("resnet50", "encoder")
CLIENTS = 64
# Rows a second of a batching server with 64 clients, over those in process in batches of 32.
GOALS = {"resnet50": 0.6, "encoder": 0.85}
# The time of a request with one row, over that of the same call in process.
ONE_ROW = 1.15
LARGEST = BATCH_SIZES[-1]
# A size that was not warmed up costs ResNet50 0.2 to 0.5 s of autotuning, and XLA 7 to 13 s.
WARM_SECONDS = 0.15
_START_SECONDS = 120.0


class Speed:
    """The servers start together, and are idle while something else is measured."""

    def __init__(self, lab: Lab, models: Models, on_cpu: Exports, on_gpu: Exports) -> None:
        self._lab, self._exports, self._on_gpu = lab, on_cpu, on_gpu
        self._models = tuple(model for model in MODELS if model in models.names)
        self._servers: dict[str, Server] = {}
        self._in_process: dict[str, dict[int, dict[str, Any]]] = {}
        self._seconds = 0.05 if lab.tiny else 1.0

    def start(self) -> None:
        """The servers of the following checks start; the warm-up plays each batch size."""
        lab = self._lab
        # Exports that took too long would be measured as well.
        self._on_gpu.end()
        one_thread = lab.work / "one-thread.txt"
        one_thread.write_text("num_batch_threads { value: 1 }\n")
        batching = "--enable_batching=true"
        self._begin("plain", self._models)
        self._begin("batching", self._models, batching)
        self._begin("batching-1-thread", self._models, batching, f"--batching_parameters_file={one_thread}")
        self._begin("uint8", ("resnet50_uint8",), batching)
        self._begin("xla", ("encoder_xla", "resnet50_xla"))
        for name, server in self._servers.items():
            started = server.starts(lab.remaining(_START_SECONDS))
            lab.record.figure(f"{name}_ready_seconds", server.ready_seconds)
            lab.record.claim(f"the server `{name}` starts", "" if started else server.log[-1000:], started)

    def _begin(self, name: str, models: tuple[str, ...], *flags: str) -> None:
        try:
            folders = {model: self._exports.folder(model) for model in self._exports.wait(models)}
        except SkippedError:
            return
        self._servers[name] = self._lab.server(f"speed-{name}", folders, *flags, kept=True)

    def in_process(self) -> None:
        """The same versions without a server, loaded as the server loads them."""
        for model in self._exports.wait(self._models):
            self._in_process[model] = self._measured(model)
            self._lab.record.figure(model, self._in_process[model])

    def served(self) -> None:
        """64 clients send one row each: batching as it comes on a GPU, and with one batch thread."""
        for model in self._models:
            within = self._of(model)[LARGEST]["rows_per_second"]
            ratios = {}
            for name in ("batching", "batching-1-thread"):
                served = self._load(name, model, CLIENTS)
                ratios[name] = round(served["rows_per_second"] / within, 3)
                self._lab.record.figure(f"{model}_{name}", {**served, "of_in_process": ratios[name]})
            claim = f"{model}: batching as it comes serves at least {GOALS[model]} of the rows/s in process"
            self._lab.record.claim(claim, ratios["batching"], ratios["batching"] >= GOALS[model])

    def unbatched(self) -> None:
        """64 clients of a server without batching, to compare with."""
        for model in self._models:
            self._lab.record.figure(model, self._load("plain", model, CLIENTS))

    def warm(self) -> None:
        """No batch size of a batching server is slow the first time: the warm-up has played it."""
        for model in self._models:
            self._first_calls("batching", model, (1, 2, 4, 8, 16, 32))

    def one_row(self) -> None:
        """One client, one row: the latency over that of the call in process."""
        for model in self._models:
            within = self._of(model)[1]["p50_ms"]
            served = self._load("plain", model, 1)
            ratio = round(served["p50_ms"] / within, 3)
            self._lab.record.figure(model, {**served, "in_process_p50_ms": within, "ratio": ratio})
            self._lab.record.claim(f"{model}: one row takes at most {ONE_ROW} times as long", ratio, ratio <= ONE_ROW)

    def uint8(self) -> None:
        """Images as uint8: in process, and served to 64 clients."""
        self._exports.wait(["resnet50_uint8"])
        for model in ("resnet50", "resnet50_uint8"):
            name = "batching" if model == "resnet50" else "uint8"
            self._lab.record.figure(
                model, {"in_process": self._measured(model), "served": self._load(name, model, CLIENTS)}
            )

    def xla(self) -> None:
        """Versions that `export build --xla` made: in process, and the first request of each size after the start."""
        for model in self._exports.wait(["encoder_xla", "resnet50_xla"]):
            self._lab.record.figure(model, self._measured(model))
            self._first_calls("xla", model, BATCH_SIZES)

    def tf32(self) -> None:
        """What TF32 is worth, in process."""
        for model in self._models:
            off, on = self._of(model), self._measured(model, "tf32")
            times = {size: round(off[size]["p50_ms"] / on[size]["p50_ms"], 3) for size in BATCH_SIZES}
            self._lab.record.figure(model, {"with_tf32": on, "times_as_fast": times})

    def _of(self, model: str) -> dict[int, dict[str, Any]]:
        if model not in self._in_process:
            raise SkippedError(f"{model} was not measured in process")
        return self._in_process[model]

    def _measured(self, model: str, *more: str) -> dict[int, dict[str, Any]]:
        sizes = ",".join(map(str, BATCH_SIZES))
        words = (
            sys.executable,
            "-m",
            "tests.gpu.in_process",
            str(self._exports.version(model)),
            sizes,
            str(self._seconds),
            *more,
        )
        found = self._lab.run(words, f"in-process-{model}").json()
        return {int(size): figures for size, figures in found["sizes"].items()}

    def _load(self, server: str, model: str, clients: int) -> dict[str, Any]:
        """Put load on a server: each of `clients` sends a request with one row when it has the response to the last."""
        at = self._server(server)
        name, row = self._row(model, 1)
        file = self._lab.work / f"{model}.npy"
        np.save(file, row)
        words = ("bench", model, "--server", at.grpc_url, "--input", f"{name}={file}", "--concurrency", str(clients))
        seconds = ("--duration", str(3 * self._seconds), "--warm-up", str(self._seconds))
        report = self._lab.tool(*words, *seconds, "--json", env=CPU_ONLY).json()
        (step,) = report["steps"]
        return {
            "rows_per_second": round(step["requests_per_second"], 1),
            "p50_ms": round(step["latency_p50_ms"], 3),
            "p99_ms": round(step["latency_p99_ms"], 3),
            "errors": step["errors"],
            "client_bound": step["client_bound"],
        }

    def _first_calls(self, server: str, model: str, sizes: tuple[int, ...]) -> None:
        name, rows = self._row(model, LARGEST)
        found: dict[int, list[float]] = {}
        with connect(self._server(server).grpc_url) as client:
            for size in sizes:
                took = []
                for _ in range(2):
                    began = time.perf_counter()
                    client.predict(model, {name: rows[:size]})
                    took.append(round(time.perf_counter() - began, 4))
                found[size] = took
        self._lab.record.figure(f"{model}_first_and_second_seconds", found)
        slow = [size for size, (first, second) in found.items() if first > second + WARM_SECONDS]
        self._lab.record.claim(f"{model}: no size is slow the first time", slow, not slow)

    def _server(self, name: str) -> Server:
        server = self._servers.get(name)
        if server is None or server.ready_seconds is None or server.process.process.poll() is not None:
            raise SkippedError(f"the server `{name}` does not run")
        return server

    def _row(self, model: str, size: int) -> tuple[str, Array]:
        """Return the input's name and an array of it with `size` rows, from the golden requests."""
        requests = read_golden(self._exports.version(model)).requests
        return next(
            (name, array) for request in requests for name, array in request.inputs.items() if len(array) == size
        )
