"""The cluster's processes. All of them and all that they start are in one control group, so none can be lost.

containerd and the kubelet have a mount namespace to themselves: what they mount goes when they do, and where they write
to folders that can't be set, there are folders of the cluster's own.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.servers import wait_for

GROUP = "serving-cluster"
ROOT = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """The roots of control groups: one of version 2, or one for each controller."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [path for path in sorted(ROOT.iterdir()) if (path / "cgroup.procs").exists()]


def make_group(name: str = GROUP) -> None:
    """Makes the group, empty; below it, `daemons` is for the cluster's programs and the rest is a kubelet's."""
    for hierarchy in hierarchies():
        group = hierarchy / name
        group.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (value := group / setting).exists() and hierarchy != ROOT:
                value.write_text((group.parent / setting).read_text())
    _daemons(name).mkdir()


def remove_group(name: str = GROUP) -> None:
    """Ends every process of the group, and removes it."""
    killed: set[int] = set()
    wait_for(lambda: _ended(name, killed), what=f"the end of the processes of {name}")
    for process in killed:
        # Those that this process started are to be waited for, too.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process, 0)
    for hierarchy in hierarchies():
        groups = [Path(path) for path, _, _ in os.walk(hierarchy / name, topdown=False)]
        for group in groups:
            wait_for(partial(_removed, group), what=f"the removal of {group}")


def exists() -> bool:
    return any((hierarchy / GROUP).exists() for hierarchy in hierarchies())


def _daemons(group: str) -> Path:
    hierarchy = next((path for path in hierarchies() if path.name == "pids"), hierarchies()[0])
    return hierarchy / group / "daemons"


def _processes(group: str) -> set[int]:
    found: set[int] = set()
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / group):
            # It may go while it is looked at.
            with contextlib.suppress(OSError):
                found.update(map(int, Path(folder, "cgroup.procs").read_text().split()))
    return found


def _ended(group: str, killed: set[int]) -> bool:
    """Whether none is left; kills those that are, and notes them."""
    processes = _processes(group)
    killed |= processes
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return not processes


def _removed(group: Path) -> bool:
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


@dataclass
class Daemons:
    """Starts programs that run until `group` is removed; each one's output is a file of `logs`."""

    logs: Path
    group: str = GROUP

    def start(
        self, name: str, *words: object, within: subprocess.Popen[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a program, in the mount namespace of `within` if given."""
        enter = ("nsenter", f"--mount=/proc/{within.pid}/ns/mnt", "--") if within else ()
        return self._start(name, [*enter, *map(str, words)])

    def start_apart(self, name: str, *words: object, instead: Iterable[tuple[Path, Path]]) -> subprocess.Popen[bytes]:
        """Starts a program in a mount namespace of its own, where it sees the second folder of a pair as the first."""
        mounts = "".join(f"mount --bind '{folder}' '{place}' && " for place, folder in instead)
        # Volumes are mounted here and shared with containers, but not with the machine.
        script = f'mount --make-rshared / && {mounts}exec "$@"'
        apart = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh"]
        return self._start(name, [*apart, *map(str, words)])

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        script = f'echo $$ > {_daemons(self.group) / "cgroup.procs"} && exec "$@"'
        with (self.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                ["sh", "-c", script, "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )

    def healthy(
        self, name: str, process: subprocess.Popen[bytes], url: str, context: ssl.SSLContext | None = None
    ) -> bool:
        """Whether a program says at `url` that it is; fails if it has ended."""
        assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.tail(name)}"
        try:
            with urllib.request.urlopen(url, timeout=5, context=context) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def tail(self, name: str) -> str:
        """The end of what a program said."""
        return "\n".join((self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-20:])


def lacking(programs: Iterable[str], path: str) -> list[str]:
    return [program for program in programs if not shutil.which(program, path=path)]
