"""What this machine has: ports, disk, memory, processors."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
from pathlib import Path
from textwrap import shorten

from tfserving.doctor.finding import Finding

# A TensorFlow process with a small model; a small version with its proof.
_LEAST_MEMORY_BYTES = 1 << 30
_LEAST_DISK_BYTES = 500 << 20
_LISTENING = "0A"


def port(number: int, use: str, file: Path, host: str = "127.0.0.1") -> Finding:
    """Return whether a TCP port is free for a server of models.yaml `file`, and else which process listens there."""
    data = {"port": number, "host": host}
    try:
        family, _, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if (title := _own_server(file, number)) is not None:
            return Finding(f"port {number}", "ok", title, data=data | {"free": False, "owner": title})
        owner = _listener(number)
        found = f"taken by {owner}" if owner else f"can't be used: {error.strerror}"
        hint = f"Stop it, or use other ports: --port and --rest-port of `serve` ({use})."
        return Finding(f"port {number}", "problem", found, hint, data | {"free": False, "owner": owner})
    return Finding(f"port {number}", "ok", f"free, for {use}", data=data | {"free": True, "owner": None})


def _own_server(file: Path, number: int) -> str | None:
    """Return the server of models.yaml `file` that listens on a port; None when none does, or it can't be known."""
    with contextlib.suppress(ModuleNotFoundError):
        from tfserving.serving.docker import deployment
        from tfserving.serving.engines import EngineError
        from tfserving.serving.models_yaml.fleet import FleetError, read_fleet
        from tfserving.serving.running import running

        with contextlib.suppress(EngineError, FleetError):
            for server in running(read_fleet(file), deployment.exists):
                if number in (server.grpc_port, server.rest_port):
                    return f"in use by this project's {server.engine} server, which is running"
    return None


def _listener(port: int) -> str | None:
    """Return the process that listens on a port; None when that can't be seen (other systems, other users)."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    holders = set()
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with contextlib.suppress(OSError):
            if any(str(handle.readlink()) in inodes for handle in (process / "fd").iterdir()):
                holders.add(process.name)
    # Children have the socket, too: workers, and for a moment whatever a process starts.
    for number in sorted(holders, key=int):
        with contextlib.suppress(OSError):
            process = Path("/proc", number)
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if parent not in holders:
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                return f"process {number} ({shorten(' '.join(words), 60, placeholder=' …')})"
    return None


def disk(folder: Path) -> Finding:
    """Return how much room there is where versions go."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    data = {"folder": str(folder.absolute()), "free_bytes": free}
    found = f"{_size(free)} free in {folder}"
    if free < _LEAST_DISK_BYTES:
        return Finding("disk", "problem", found, "Versions are written there. Free some space.", data)
    return Finding("disk", "ok", found, data=data)


def memory() -> Finding:
    """Return how much memory this machine, or the container around this process, has available."""
    free = _available()
    if free is None:
        return Finding("memory", "ok", "unknown on this system", data={"available_bytes": None})
    found = f"{_size(free)} available"
    data = {"available_bytes": free}
    if free < _LEAST_MEMORY_BYTES:
        hint = f"TensorFlow with a small model takes about {_size(_LEAST_MEMORY_BYTES)}."
        return Finding("memory", "problem", found, hint, data)
    return Finding("memory", "ok", found, data=data)


def _available() -> int | None:
    free = None
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) << 10
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        free = limit if free is None else min(free, limit)
    return free


def processor() -> Finding:
    """Return how many processors this process may use, and whether TensorFlow runs on them."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    machine = platform.machine()
    found = f"{count} {'processor' if count == 1 else 'processors'}, {machine}"
    data = {"processors": count, "architecture": machine}
    with contextlib.suppress(OSError):
        # https://www.tensorflow.org/install/pip: its packages for x86 use AVX.
        if machine == "x86_64" and " avx " not in Path("/proc/cpuinfo").read_text():
            hint = "TensorFlow's packages for x86 need AVX. Use another machine, or build TensorFlow."
            return Finding("CPU", "problem", f"{found}, without AVX", hint, data)
    return Finding("CPU", "ok", found, data=data)


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
