"""The servers that run now: a folder for each, with the configuration that it reads and a note of where it listens.

    <state>/<fleet>/<engine>-<gRPC port>/
        server.json     what is here: engine, ports, models, the process or the container
        config/         what the server reads; a container has it mounted

`<state>` is `$XDG_STATE_HOME/tensorflow-serving-toolkit`, in `~/.local/state` when that isn't set, which others can't
read: a TLS key may be in it. The folder goes when its server does.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tfserving.foundation.files import written_whole
from tfserving.serving.config import Places, in_container, on_host
from tfserving.serving.models_yaml.fleet import Fleet

NOTE = "server.json"


@dataclass(frozen=True)
class Running:
    """A server of a fleet. `pid` is the process that looks after it, `container` a container's id; one of the two."""

    engine: str
    host: str
    grpc_port: int
    rest_port: int
    names: tuple[str, ...]
    tls: bool = False
    pid: int | None = None
    container: str | None = None

    def places(self, fleet: Fleet) -> Places:
        """Where this server finds things."""
        if self.engine in ("docker", "compose"):
            return in_container()
        return on_host(fleet, self.grpc_port, self.rest_port, config_folder(fleet, self.engine, self.grpc_port))


def fleet_id(fleet: Fleet) -> str:
    """A name for the fleet that no other on this machine has: its folder's name and a hash of its file's path."""
    slug = re.sub(r"[^a-z0-9]+", "-", fleet.file.parent.name.lower()).strip("-")[:30] or "fleet"
    return f"{slug}-{hashlib.sha256(str(fleet.file.resolve()).encode()).hexdigest()[:8]}"


def config_folder(fleet: Fleet, engine: str, grpc_port: int) -> Path:
    """Where the configuration of a server lies."""
    return fleet_folder(fleet) / f"{engine}-{grpc_port}" / "config"


def write_config(folder: Path, files: Mapping[str, str]) -> None:
    """Writes the files of a configuration, each whole or not at all; what is no longer part of it goes."""
    # A container's user isn't this one, so the files are open; others of this machine don't get to them.
    state = folder.parents[2]
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o700)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name, text in files.items():
        write_file(folder / name, text)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()


def write_file(path: Path, text: str) -> None:
    """Writes a file whole or not at all, and not when it says that already."""
    if not path.is_file() or path.read_text() != text:
        with written_whole(path) as file:
            file.write(text.encode())


def note(fleet: Fleet, server: Running) -> None:
    """Notes that `server` runs, beside its configuration."""
    with written_whole(config_folder(fleet, server.engine, server.grpc_port).parent / NOTE) as file:
        file.write(json.dumps(asdict(server), indent=2).encode())


def forget(fleet: Fleet, engine: str, grpc_port: int) -> None:
    """Removes all that is kept of a server, and what has become empty by it."""
    shutil.rmtree(config_folder(fleet, engine, grpc_port).parent, ignore_errors=True)
    for folder in (fleet_folder(fleet), fleet_folder(fleet).parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def running(fleet: Fleet, exists: Callable[[str], bool]) -> list[Running]:
    """The fleet's servers that run; `exists` says whether there is a container of that id. Forgets those that ended."""
    found = []
    for path in sorted(fleet_folder(fleet).glob(f"*/{NOTE}")):
        said: Mapping[str, object] = json.loads(path.read_text())
        server = Running(**{**said, "names": tuple(said["names"])})  # type: ignore[arg-type]
        if _alive(server.pid) if server.container is None else exists(server.container):
            found.append(server)
        else:
            forget(fleet, server.engine, server.grpc_port)
    return found


def fleet_folder(fleet: Fleet) -> Path:
    """Where all is kept of the fleet's servers that run."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(base, "tensorflow-serving-toolkit", fleet_id(fleet))


def _alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
