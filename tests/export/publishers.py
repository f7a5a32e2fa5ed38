"""Many publishers at once: processes of their own that begin within milliseconds, and are killed at any moment.

A process of this module imports what `tfserving export publish` needs, and then forks: importing it 20 times would take
longer than publishing. It has no file system of fsspec, so that it has no threads.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# So that the large file of a small version is copied within the store.
SMALL = 64 << 10
OPERATIONS = ("sizes", "read", "sha256", "fetch", "create", "create_from", "write", "send", "copy", "remove_one")
FOLDER: tuple[tuple[Any, str], ...] = ((shutil, "copyfile"), (os, "fsync"), (Path, "mkdir"), (Path, "rename"))
_SECONDS = 120


@dataclass(frozen=True)
class Job:
    """`tfserving export publish ARGUMENTS`, killed some seconds after its start, or at one of its operations."""

    arguments: Sequence[str]
    after: float | None = None
    operation: int | None = None

    @property
    def killed(self) -> bool:
        return self.after is not None or self.operation is not None


@dataclass(frozen=True)
class Ended:
    """How a publisher ended."""

    returncode: int
    stdout: str
    stderr: str


class Publishers:
    """The process that starts publishers. Use it in a `with` statement."""

    def __init__(self, env: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "tests.export.publishers"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Publishers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)

    def run(self, jobs: Sequence[Job]) -> list[Ended]:
        """Runs all jobs at the same time, and waits for their ends."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps([asdict(job) for job in jobs]), file=self._process.stdin, flush=True)
        return [Ended(**one) for one in json.loads(self._process.stdout.readline())]


def _run(jobs: Sequence[Job]) -> list[Ended]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.monotonic()
        running = {_fork(job, folder / str(number)): number for number, job in enumerate(jobs)}
        ended: dict[int, int] = {}
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                ended[running.pop(pid)] = os.waitstatus_to_exitcode(status)
                continue
            spent = time.monotonic() - start
            for pid, number in running.items():
                after = jobs[number].after
                if spent > min(_SECONDS, _SECONDS if after is None else after):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)
        return [
            Ended(ended[number], (folder / f"{number}.out").read_text(), (folder / f"{number}.err").read_text())
            for number in range(len(jobs))
        ]


def _fork(job: Job, place: Path) -> int:
    files = [os.open(f"{place}.{kind}", os.O_WRONLY | os.O_CREAT, 0o644) for kind in ("out", "err")]
    if pid := os.fork():
        for file in files:
            os.close(file)
        return pid
    try:
        for number, file in enumerate(files, 1):
            os.dup2(file, number)
        _publish(job)
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        traceback.print_exc()
    os._exit(70)


def _publish(job: Job) -> None:
    from tfserving.__main__ import main
    from tfserving.export import publish_objects
    from tfserving.export.objects import Objects

    publish_objects.SMALL = SMALL
    if job.operation is not None:
        left = [job.operation]
        for owner, name in [*((Objects, name) for name in OPERATIONS), *FOLDER]:
            setattr(owner, name, _counted(getattr(owner, name), left))
    sys.argv = ["tfserving", "export", "publish", *job.arguments]
    main()


def _counted(operation: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """An operation that is the process's end when it is its turn: before it, or after it."""

    def counted(*arguments: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = operation(*arguments, **more)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return counted


def _serve() -> None:
    import gcsfs  # noqa: F401
    import s3fs  # noqa: F401

    import tfserving.__main__
    import tfserving.cli
    import tfserving.export.commands.publish
    import tfserving.export.manifest
    import tfserving.export.publish
    import tfserving.serving.models_yaml.fleet  # noqa: F401

    for line in sys.stdin:
        ended = _run([Job(**job) for job in json.loads(line)])
        print(json.dumps([asdict(one) for one in ended]), flush=True)


if __name__ == "__main__":
    _serve()
