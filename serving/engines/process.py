"""The engines that run a model server as a process on this machine: `native` and `embedded`."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tfserving.foundation.command.progress import Progress
from tfserving.foundation.extras import missing_for_embedded
from tfserving.foundation.last_words import READ_LINES, is_information, last_words
from tfserving.foundation.model_server import find_model_server, no_model_server
from tfserving.foundation.programs import end_with_parent
from tfserving.serving import running, server_log
from tfserving.serving.config import SERVE, grace_seconds, on_host, server_config
from tfserving.serving.engines import EngineError, Plan, Report
from tfserving.serving.engines.exit_codes import as_subprocess, meaning
from tfserving.serving.gpu_environment import GpuError, process_environment
from tfserving.serving.kept import writing
from tfserving.serving.models_yaml.fleet import Fleet

WAIT_SECONDS = 0.1
# What TensorFlow prints: 0 is everything, 1 is everything but the level INFO.
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# The folder with the package `tfserving`: a clone, or site-packages.
ROOT = Path(__file__).absolute().parents[3]
# Loaded before any fork: a child should do as little as possible between fork and exec.


class ServerProcess:
    """A model server in its own process; TensorFlow Serving is a child of the script that drains it.

    It ends with the process that started it.
    """

    def __init__(self, name: str, command: Sequence[str], plan: Plan) -> None:
        self._name = name
        self._plan = plan
        self._ready = self._log_is_cut = False
        self._lines: collections.deque[str] = collections.deque(maxlen=READ_LINES)
        folder = running.config_folder(plan.fleet, name, plan.grpc_port)
        places = on_host(plan.fleet, plan.grpc_port, plan.rest_port, folder)
        embedded = name == Embedded.name
        config = server_config(plan.fleet, plan.names, places, embedded=embedded)
        try:
            self._environment = process_environment(plan.fleet.server, os.environ, embedded=embedded)
        except GpuError as error:
            raise EngineError(f"server.gpus: {error}") from None
        tls = plan.fleet.server.tls is not None
        me = os.getpid()
        note = running.Running(
            name,
            plan.host,
            plan.grpc_port,
            plan.rest_port,
            plan.names,
            tls,
            pid=me,
            began=running.began(me),
            poll_seconds=config.poll_seconds,
            whole=plan.whole,
            copies=plan.fleet.is_copied,
        )
        try:
            running.write_config(folder, config.files)
            running.note(plan.fleet, note)
            with writing(folder.parent):
                self._log = server_log.ServerLog(folder.parent)
            end = signal.SIGTERM
            if SERVE in config.files:
                # On SIGHUP the script ends the server without a drain, since nothing would end one that hangs.
                command, end = ["bash", str(folder / SERVE), *command], signal.SIGHUP
            self._process = self._start([*command, *config.flags], end)
        except BaseException:
            running.forget(plan.fleet, name, plan.grpc_port)
            raise
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()

    def _start(self, command: Sequence[str], end: signal.Signals) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                cwd=ROOT,
                # Ctrl-C must reach only this process, which then drains the server.
                start_new_session=True,
                preexec_fn=lambda: end_with_parent(end),  # noqa: PLW1509 - it only calls prctl
                env={
                    _LOG_LEVEL: "0" if self._name == Native.name else "1",
                    **self._environment,
                    "PYTHONUNBUFFERED": "1",
                },
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise EngineError(f"{command[0]} can't be started: {reason}") from None

    def wait_until_ready(self, seconds: float, report: Report) -> dict[str, int]:
        """Wait until every model is available and return their versions. See `tfserving.serving.engines.Server`."""
        try:
            # The clients' modules are imported while the server starts, and only if one is started.
            from tfserving.serving.engines.readiness import await_models

            versions = await_models(self._plan, seconds, self._check_it_runs, self.last_lines, report)
        except BaseException:
            self.stop()
            raise
        self._ready = True
        return versions

    def wait(self) -> int:
        """Wait until the server exits by itself and return its exit code."""
        # A wait without a timeout would miss a signal that arrives just before it begins.
        while (code := self._process.poll()) is None:
            time.sleep(WAIT_SECONDS)
        self._clean()
        return code

    def stop(self) -> int:
        """Drain and end the server: SIGTERM, then SIGKILL if it doesn't end in time."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(grace_seconds(self._plan.fleet.server))
            except subprocess.TimeoutExpired:
                self.kill()
        # The script exits with the code of its server, as a shell reports it.
        return as_subprocess(self.wait())

    def kill(self) -> None:
        """End the server at once."""
        self._kill_group()
        self.wait()

    def _kill_group(self) -> None:
        """End the process and its children: they have their own session, and so their own group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def last_lines(self) -> str:
        """Return the last lines that the server printed, indented."""
        return last_words(self._lines)

    def _check_it_runs(self) -> None:
        if self._process.poll() is not None:
            self._clean()
            raise EngineError(
                f"the {self._name} server ended before every model was available: "
                f"{meaning(self._process.returncode)}; its last lines:\n{self.last_lines()}"
            )

    def _follow(self) -> None:
        """Write what the server prints to its log, and show it when the server is ready, except the level INFO."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
            self._keep(line.rstrip())
            if self._ready and not (_LOG_LEVEL not in os.environ and is_information(line)):
                _show(line.rstrip())
        self._log.close()

    def _keep(self, line: str) -> None:
        """Write a line to the log. A full disk doesn't end the server: it is reported once, and the log has a gap."""
        try:
            self._log.write(line)
        except OSError as error:
            if not self._log_is_cut:
                _show(f"{server_log.NAME} can't be written: {error.strerror or error}. Lines are missing in it")
            self._log_is_cut = True

    def _clean(self) -> None:
        # A script that was killed leaves its server running.
        self._kill_group()
        self._follower.join(timeout=5)
        running.forget(self._plan.fleet, self._name, self._plan.grpc_port)


def _show(line: str) -> None:
    """Print a line of the server. If the terminal is gone, the server's pipe is still read."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(line, file=sys.stderr, flush=True)


class Embedded:
    """The server of this project, `python -m tfserving.serving.embedded`: nothing to install, any architecture."""

    name = "embedded"

    def unusable(self) -> str | None:
        """Return which module this environment lacks; None if it lacks none."""
        return missing_for_embedded("python -m tfserving.serving.embedded")

    def prepare(self, fleet: Fleet, progress: Progress) -> None:
        """Do nothing: everything is on this machine."""

    def start(self, plan: Plan) -> ServerProcess:
        """Start it on the plan's host and ports."""
        words = [sys.executable, "-m", "tfserving.serving.embedded", f"--host={plan.host}"]
        return ServerProcess(self.name, words, plan)


class Native:
    """TensorFlow Serving's own program: the one of TENSORFLOW_MODEL_SERVER, else the one on PATH."""

    name = "native"

    def unusable(self) -> str | None:
        """Return why it can't be used: it doesn't exist or doesn't run; None if it can."""
        path = find_model_server()
        if path is None:
            return no_model_server()
        try:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{path} doesn't run: {error}"
        if done.returncode != 0:
            return f"{path} --version exited with code {done.returncode}: {done.stderr.strip()[-300:]}"
        return None

    def prepare(self, fleet: Fleet, progress: Progress) -> None:
        """Do nothing: everything is on this machine."""

    def start(self, plan: Plan) -> ServerProcess:
        """Start it on the plan's ports. It has no flag for an address and listens on all of them."""
        path = find_model_server()
        if path is None:
            raise EngineError(no_model_server())
        return ServerProcess(self.name, [path], plan)
