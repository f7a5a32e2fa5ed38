"""The servers that run now: a folder for each, with the configuration that it reads and a note of where it listens.

    <state>/<fleet>/<engine>-<gRPC port>/
        server.json     what is here: engine, ports, models, the process or the container
        config/         what the server reads; a container has it mounted
        server.log      what a server printed that is a process, with server.log.1 and server.log.2, which are older

`<state>` is `$XDG_STATE_HOME/tensorflow-serving-toolkit`, in `~/.local/state` when that isn't set, which others can't
read: a TLS key may be in it. The folder goes when its server does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tfserving.foundation.files import written_whole
from tfserving.serving import kept
from tfserving.serving.config import POLL_SECONDS, Places, in_container, on_host
from tfserving.serving.config_messages import text
from tfserving.serving.engines import EngineError, address, own_url
from tfserving.serving.kept import writing
from tfserving.serving.models_yaml.fleet import Fleet

NOTE = "server.json"


@dataclass(frozen=True)
class Running:
    """A server of a fleet. `pid` is the process that looks after it, `container` a container's id; one of the two.

    `whole` says that it has all models of the fleet, later ones too; otherwise `names` were chosen.
    """

    engine: str
    host: str
    grpc_port: int
    rest_port: int
    names: tuple[str, ...]
    tls: bool = False
    pid: int | None = None
    container: str | None = None
    # When the process began, as the kernel counts it: a number may be another process's later.
    began: str | None = None
    # How often it reads models.config; 0: never, HandleReloadConfigRequest changes what it serves.
    poll_seconds: int = POLL_SECONDS
    whole: bool = False

    # What has more in it than this is of another form.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - as pydantic has it

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"{self.engine} server on port {self.grpc_port}"

    @property
    def url(self) -> str:
        """Where the toolkit's own checks go."""
        return own_url(address(self.host, self.grpc_port), address(self.host, self.rest_port), tls=self.tls)

    @property
    def is_container(self) -> bool:
        """Whether it runs in a container; otherwise it is a process of this machine."""
        return self.container is not None

    def following(self, fleet: Fleet, new: Collection[str]) -> Running:
        """This server with the models that it is to have by `fleet`: its own that are still there, and the `new` ones.

        A server that models were chosen for keeps to these. Raises EngineError when none of its models is left.
        """
        names = tuple(name for name in fleet.models if name in self.names or (self.whole and name in new))
        if not names:
            raise EngineError(
                f"the {self.title} has {', '.join(self.names)}, and {fleet.file} has none of these; end the server, or "
                "put one back"
            )
        return replace(self, names=names)

    def places(self, fleet: Fleet) -> Places:
        """Where this server finds things."""
        if self.is_container:
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
    with writing(folder):
        # A container's user isn't this one, so the files are open; others of this machine don't get to them.
        state = folder.parents[2]
        state.mkdir(parents=True, exist_ok=True)
        state.chmod(0o700)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        for name, content in files.items():
            write_file(folder / name, content)
        for path in folder.iterdir():
            if path.name not in files:
                path.unlink()


def write_file(path: Path, content: str) -> None:
    """Writes a file whole or not at all, and not when it says that already."""
    data = content.encode()
    with writing(path):
        if not path.is_file() or path.read_bytes() != data:
            with written_whole(path) as file:
                file.write(data)


def read_models_config(path: Path) -> Any:
    """The ModelServerConfig that a server reads from `path`. Raises EngineError when it isn't one."""
    try:
        return kept.models_config(kept.read(path))
    except (FileNotFoundError, kept.KeptError) as error:
        reason = "it isn't there" if isinstance(error, FileNotFoundError) else str(error)
        raise EngineError(
            f"{path} is not what the server was given to read: {reason}; end the server and start it again, which "
            "writes the file anew"
        ) from None


def write_models_config(path: Path, config: Any) -> None:
    """Writes the ModelServerConfig that a server reads from `path`, whole or not at all."""
    with writing(path), written_whole(path) as file:
        file.write(text(config).encode())


def note(fleet: Fleet, server: Running) -> None:
    """Notes that `server` runs, beside its configuration."""
    path = config_folder(fleet, server.engine, server.grpc_port).parent / NOTE
    with writing(path), written_whole(path) as file:
        file.write(json.dumps(asdict(server), indent=2).encode())


def forget(fleet: Fleet, engine: str, grpc_port: int) -> None:
    """Removes all that is kept of a server, and what has become empty by it."""
    shutil.rmtree(config_folder(fleet, engine, grpc_port).parent, ignore_errors=True)
    for folder in (fleet_folder(fleet), fleet_folder(fleet).parent):
        # One that isn't empty stays.
        with contextlib.suppress(OSError):
            folder.rmdir()


def running(fleet: Fleet, exists: Callable[[str], bool]) -> list[Running]:
    """The fleet's servers that run; `exists` says whether there is a container of that id. Forgets those that ended.

    Raises EngineError when what is noted of one can't be read, or names a process that isn't its own.
    """
    found = []
    for path in sorted(fleet_folder(fleet).glob(f"*/{NOTE}")):
        with contextlib.suppress(FileNotFoundError):
            server = _read_note(path)
            if server.container is not None:
                alive = exists(server.container)
            elif (alive := process_is_alive(server.pid)) and server.began != began(server.pid):
                # The number is another process's by now; unless something listens, which may be the server.
                if _listens(server):
                    raise EngineError(_unknown(path, f"names process {server.pid}, which isn't the server's"))
                alive = False
            if alive:
                found.append(server)
            else:
                forget(fleet, server.engine, server.grpc_port)
    return found


def _read_note(path: Path) -> Running:
    try:
        server = kept.parsed(kept.read(path), Running)
    except kept.KeptError as error:
        raise EngineError(_unknown(path, f"is not the note of a server: {error}")) from None
    # Its folder is removed once the server has ended, so it must be that of the note.
    if path.parent.name != f"{server.engine}-{server.grpc_port}" or (server.pid is None) == (server.container is None):
        raise EngineError(_unknown(path, "is the note of another server"))
    return server


def _unknown(path: Path, what: str) -> str:
    return (
        f"{path} {what}. End the server if it still runs; `rm -r {shlex.quote(str(path.parent))}` forgets it, and "
        "starting the server again writes all of it anew"
    )


def fleet_folder(fleet: Fleet) -> Path:
    """Where all is kept of the fleet's servers that run."""
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    except RuntimeError:
        raise EngineError("this user has no home; set XDG_STATE_HOME to a folder that can be written to") from None
    return Path(base, "tensorflow-serving-toolkit", fleet_id(fleet)).absolute()


def began(pid: int | None) -> str | None:
    """When a process began, as it is unique on this machine; None where the kernel doesn't say."""
    with contextlib.suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name of a program, in parentheses, may have anything in it. https://man7.org/linux/man-pages/man5/proc.5.html
        return f"{boot}/{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    return None


def _listens(server: Running) -> bool:
    """Whether something listens where a server did."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 - to ask it
    with contextlib.suppress(OSError), socket.create_connection((host, server.rest_port), 1):
        return True
    return False


def process_is_alive(pid: int | None) -> bool:
    """Whether there is a process of that number."""
    if pid is None or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
