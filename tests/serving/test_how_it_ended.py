"""How a server of `serve` ended: its exit code in words, and among its last lines the reason."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT, free_ports, model_servers
from tests.serving.embedded import saved_models
from tfserving.foundation.model_server import PROGRAM, VARIABLE
from tfserving.serving.engines.exit_codes import as_subprocess, meaning

# What the stand-in does when it may not make the threads of a load: without the import of TensorFlow.
ABORTS = f"""#!{sys.executable}
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
if "--version" in sys.argv:
    sys.exit(0)
from tests.stand_in import log
from tests.stand_in.threads import loading
log.begin()
for _ in range(100):
    log.adding(())
    log.added()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29),) * 2)
with loading():
    pass
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """models.yaml of a model of one version."""
    (tmp_path / "models.yaml").write_text("models:\n  scaled:\n    builder: tests.scaled:build\n")
    saved_models.sums(tmp_path / "models/scaled", 1, 1.0)
    return tmp_path / "models.yaml"


def run(fleet: Path, program: str) -> str:
    """What `serve --engine native` says of `program`, which does not become ready."""
    port, rest_port = free_ports(2)
    words = ["serve", "--engine", "native", "--fleet", str(fleet), "--port", str(port)]
    done = subprocess.run(
        [sys.executable, "-m", "tfserving", *words, "--rest-port", str(rest_port)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"} | {VARIABLE: program},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_without_threads_for_a_load_the_last_lines_say_so(fleet: Path) -> None:
    program = fleet.with_name(PROGRAM)
    program.write_text(ABORTS)
    program.chmod(0o755)
    said = run(fleet, str(program))
    ended = "exit code 134: it aborted, see its log; its last lines:\n"
    assert f"the native server ended before every model was available: {ended}" in said
    thread = "Thread tf_ModelDiskSizePool creation via pthread_create() failed."
    assert f"    fatal: Check failed: ret == 0 (11 vs. 0) {thread}\n" in said


def test_a_version_that_does_not_load_ends_it_with_255_and_its_words(fleet: Path, stand_in: Path) -> None:
    scaled = fleet.parent / "models/scaled"
    saved_models.broken(scaled, 2, scaled / "1")
    shutil.rmtree(scaled / "1")
    native = [server.command[0] for server in model_servers() if not server.embedded]
    said = run(fleet, native[0] if native else str(stand_in))
    ended = "exit code 255: a model failed to load, or a flag was wrong, see its log; its last lines:\n"
    assert f"the native server ended before every model was available: {ended}" in said
    assert re.search(
        r"^    Failed to start server\. Error: U(NKNOWN|nknown): 1 servable\(s\) did not become available: "
        r"\{+name: scaled version: 2\} due to error: ",
        said,
        re.M,
    )
    assert "Adding/updating models." not in said


def test_a_signal_means_the_same_to_a_process_and_to_a_container() -> None:
    assert (
        meaning(-signal.SIGSEGV)
        == meaning(128 + signal.SIGSEGV)
        == "exit code 139: it crashed, by a segmentation fault"
    )
    assert meaning(3) == "exit code 3"


def test_a_start_that_failed_was_not_ended_by_a_signal() -> None:
    """255 is TensorFlow Serving's own code; there are no 127 signals."""
    assert as_subprocess(128 + signal.SIGTERM) == -signal.SIGTERM
    assert [as_subprocess(code) for code in (0, 3, 127, 255)] == [0, 3, 127, 255]
