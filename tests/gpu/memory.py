"""Checks of the GPU's memory: what a server takes, with which flags, and what it prints when nothing is left."""

from __future__ import annotations

import re
from pathlib import Path

from tests.gpu.exports import Exports, Models
from tests.gpu.lab import Lab, Server
from tfserving.foundation.gpus import visible_gpus

FRACTION = 0.25
# The driver and CUDA's context take memory beside TensorFlow's share.
CONTEXT_MIB = 2048
# Growth: the samples took 672 MiB on an H200.
GROWTH_MIB = 2048
# Servers beside each other of which each takes all that is left, until one can't start.
MOST_SERVERS = 3
_MIB = 1 << 20
_START_SECONDS = 60.0


class Memory:
    """Each check starts servers of the samples, and reads the memory in use before and after."""

    def __init__(self, lab: Lab, models: Models, on_cpu: Exports, _on_gpu: Exports) -> None:
        self._lab, self._models, self._exports = lab, models, on_cpu

    def growth(self) -> None:
        """By default the memory grows as it is needed."""
        taken, _ = self._taken("growth")
        self._lab.record.claim(f"the server takes at most {GROWTH_MIB} MiB", taken, _at_most(taken, GROWTH_MIB))

    def fraction(self) -> None:
        """--per_process_gpu_memory_fraction is the part that a server takes when it starts."""
        taken, _ = self._taken("fraction", f"--per_process_gpu_memory_fraction={FRACTION}")
        gpus = visible_gpus()
        share = int(FRACTION * (gpus[0].total or 0)) // _MIB if gpus else 0
        self._lab.record.figure("share_mib", share)
        within = taken is not None and 0.9 * share <= taken <= share + CONTEXT_MIB
        self._lab.record.claim("the server takes its share", taken, within)

    def workers(self) -> None:
        """With --workers=2 both processes serve."""
        taken, server_log = self._taken("workers", "--workers=2", verified=True)
        self._lab.record.claim("the log has no blas error", "", "No blas support" not in server_log)
        self._lab.record.figure("taken_by_two_workers_mib", taken)

    def full(self) -> None:
        """A server that finds no memory names who has it."""
        lab, started = self._lab, 0
        models = self._folders()
        log = ""
        for number in range(1, 2 if lab.tiny else MOST_SERVERS + 1):
            server = lab.server(f"full-{number}", models, "--gpu_memory_growth=false")
            if not server.starts(lab.remaining(_START_SECONDS)):
                log = server.log[-1500:]
                lab.record.figure("exit_code", server.process.process.poll())
                break
            started = number
            lab.record.figure(f"used_after_server_{number}_mib", lab.used_mib())
        lab.record.figure("servers_that_started", started)
        lab.record.figure("log_of_the_last", log)
        names = re.search(r"is (probably )?taken", log) is not None
        lab.record.claim(
            "a server without memory prints that it is taken, and by whom", log[-300:] or "all started", names
        )
        lab.record.claim("it prints no blas error", log[-300:], "No blas support" not in log)

    def _folders(self) -> dict[str, Path]:
        return {name: self._exports.folder(name) for name in self._exports.wait(self._models.small)}

    def _taken(self, name: str, *flags: str, verified: bool = False) -> tuple[int | None, str]:
        """Start a server; return the MiB that it takes once it has served, and its log."""
        lab = self._lab
        models = self._folders()
        before = lab.settled_mib()
        server = lab.server(name, models, *flags)
        server.must_start(lab.remaining(_START_SECONDS))
        lab.record.figure("ready_seconds", server.ready_seconds)
        lab.record.figure("taken_at_start_mib", _difference(lab.used_mib(), before))
        self._serve(server, [*models], verified=verified)
        taken = _difference(lab.used_mib(), before)
        lab.record.figure("taken_after_requests_mib", taken)
        lab.record.figure("start_line", _start_line(server.log))
        return taken, server.log

    def _serve(self, server: Server, models: list[str], *, verified: bool) -> None:
        sources = [str(self._exports.folder(model)) for model in models]
        done = self._lab.tool("verify", *sources, "--server", server.urls, "--way", "concurrent", "--json")
        report = done.json()
        self._lab.record.figure("verify_summary", report["summary"])
        if verified:
            self._lab.record.claim("all golden requests are verified", report["summary"], bool(report["ok"]))


def _at_most(value: int | None, most: int) -> bool:
    return value is not None and value <= most


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def _start_line(log: str) -> str:
    return next((line for line in log.splitlines() if "serving: " in line), "")
