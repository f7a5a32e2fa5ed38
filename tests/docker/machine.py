"""What the tests of Docker and Kubernetes may not change on the machine that they run on."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

NULL = Path("/dev/null")
# iptables is where only root looks.
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"}
_FAMILIES = ("iptables", "ip6tables")
# Engines turn these on.
_SYSCTLS = ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")


def restore_null(path: Path = NULL) -> str | None:
    """Makes `path` the null device where it isn't; returns what it was instead, in words, or None.

    As root a program that writes a file anew and renames it to /dev/null replaces the device, and from then on this
    machine's other programs read and write what is there instead.
    """
    if (found := _instead_of_null(path)) is None:
        return None
    made = path.with_name(".null")
    made.unlink(missing_ok=True)
    os.mknod(made, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    # The process's umask was applied.
    made.chmod(0o666)
    made.rename(path)
    return found


def _instead_of_null(path: Path) -> str | None:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return "nothing"
    if stat.S_ISLNK(there.st_mode):
        return f"a symbolic link to {path.readlink()}"
    kind = stat.filemode(there.st_mode)
    if not stat.S_ISCHR(there.st_mode):
        return f"{kind}, {there.st_size} bytes"
    device = os.major(there.st_rdev), os.minor(there.st_rdev)
    return None if (device, kind) == ((1, 3), "crw-rw-rw-") else f"{kind}, device {device[0]}:{device[1]}"


@dataclass(frozen=True)
class Machine:
    """What this machine has: mounts, network links, rules of iptables by family and table, and kernel settings."""

    mounts: Counter[str]
    links: frozenset[str]
    rules: dict[tuple[str, str], list[str]]
    sysctls: dict[str, str]

    @classmethod
    def now(cls) -> Machine:
        """Reads it."""
        mounts = Counter(line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines())
        paths = {name: Path("/proc/sys", name) for name in _SYSCTLS}
        sysctls = {name: path.read_text() for name, path in paths.items() if path.exists()}
        return cls(mounts, frozenset(os.listdir("/sys/class/net")), _rules(), sysctls)  # noqa: PTH208

    def restore(self) -> None:
        """Has iptables and the kernel say what they said then, tables that weren't there included."""
        now = Machine.now()
        for family in _FAMILIES:
            tables = {table: lines for (of, table), lines in self.rules.items() if of == family}
            for of, table in now.rules:
                if of == family and table not in tables:
                    # Empty, as the kernel has it until somebody asks for it.
                    tables[table] = [f":{chain} ACCEPT" for chain in _built_in(now.rules[of, table])]
            script = "".join("\n".join([f"*{table}", *lines, "COMMIT", ""]) for table, lines in tables.items())
            if script:
                command = [f"{family}-restore", "-w"]
                subprocess.run(command, input=script, text=True, check=True, capture_output=True, env=ENVIRONMENT)
        for name, value in self.sysctls.items():
            if now.sysctls.get(name) != value:
                Path("/proc/sys", name).write_text(value)

    def unmount(self, *folders: Path) -> None:
        """Ends what has been mounted below these folders: an engine leaves its own network there."""
        for mount in (Machine.now().mounts - self.mounts).elements():
            if any(Path(mount).is_relative_to(folder) for folder in folders):
                subprocess.run(["umount", mount], check=True, capture_output=True)

    def left(self, folder: Path) -> str:
        """What there is now and wasn't then, and processes of `folder`, in words; nothing when all is as it was."""
        now = Machine.now()
        parts = {
            "mounts": sorted((now.mounts - self.mounts).elements()),
            "network links": sorted(now.links - self.links),
            "rules of iptables": [
                f"{family} {table}: {line}"
                for (family, table), lines in now.rules.items()
                for line in lines
                if line not in self.rules.get((family, table), ()) and not re.match(r":\S+ ACCEPT$", line)
            ],
            "kernel settings": [name for name, value in self.sysctls.items() if now.sysctls.get(name) != value],
            "processes": _processes(folder),
        }
        return "; ".join(f"{kind}: {', '.join(found)}" for kind, found in parts.items() if found)


def _rules() -> dict[tuple[str, str], list[str]]:
    """What each table of each family has, as iptables-save writes it, without what it counts."""
    found: dict[tuple[str, str], list[str]] = {}
    for family in _FAMILIES:
        # A machine may have no IPv6.
        saved = subprocess.run([f"{family}-save"], check=False, capture_output=True, text=True, env=ENVIRONMENT)
        table = ""
        for line in saved.stdout.splitlines():
            if line.startswith("*"):
                table = line[1:]
                found[family, table] = []
            elif line.startswith((":", "-A ")):
                found[family, table].append(re.sub(r" \[\d+:\d+\]$", "", line))
    return found


def _built_in(lines: list[str]) -> list[str]:
    """The chains of a table that are the kernel's: they have a policy."""
    return [line[1:].split()[0] for line in lines if line.startswith(":") and not line.endswith(" -")]


def _processes(folder: Path) -> list[str]:
    """Those whose words name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in words:
            found.append(f"{path.parent.name} {words}")
    return found
