"""The running servers. Each has a folder with its configuration and a note of its addresses.

    <state>/<fleet>/<engine>-<gRPC port>/
        server.json     the note: engine, ports, models, and the process or container
        config/         the files that the server reads; a container mounts them
        server.log      the output of a server that is a process; server.log.1 and server.log.2 are older

`<state>` is `$XDG_STATE_HOME/tensorflow-serving-toolkit`, or in `~/.local/state` if that isn't set. Other users can't
read it, since it may contain a TLS key. A server's folder is removed when the server ends.
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
from tfserving.serving.engines import EngineError, address, local, own_url
from tfserving.serving.kept import writing
from tfserving.serving.models_yaml.fleet import Fleet

NOTE = "server.json"


@dataclass(frozen=True)
class Running:
    """A server of a fleet. Either `pid`, the process that runs it, or `container`, a container's id, is set.

    With `whole` it serves all models of the fleet, also those that are added later. Otherwise `names` were chosen. With
    `copies` it loads copies of versions, see `tfserving.serving.admitted`.
    """

    engine: str
    host: str
    grpc_port: int
    rest_port: int
    names: tuple[str, ...]
    tls: bool = False
    pid: int | None = None
    container: str | None = None
    # The start of the process, from the kernel: another process may have the same number later.
    began: str | None = None
    # The interval at which it reads models.config. 0: never, it is changed by HandleReloadConfigRequest.
    poll_seconds: int = POLL_SECONDS
    whole: bool = False
    copies: bool = False

    # A note with other keys is refused.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - as pydantic has it

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"{self.engine} server on port {self.grpc_port}"

    @property
    def url(self) -> str:
        """The URL for the toolkit's own checks."""
        host = local(self.host)
        return own_url(address(host, self.grpc_port), address(host, self.rest_port), tls=self.tls)

    @property
    def is_container(self) -> bool:
        """Whether it runs in a container; otherwise it is a process on this machine."""
        return self.container is not None

    def following(self, fleet: Fleet, new: Collection[str]) -> Running:
        """Return this server with its models that `fleet` still has, and the `new` ones if it serves the whole fleet.

        Raises EngineError when none of its models is left.
        """
        names = tuple(name for name in fleet.models if name in self.names or (self.whole and name in new))
        if not names:
            raise EngineError(
                f"the {self.title} serves {', '.join(self.names)}, and {fleet.file} contains none of these. Stop the "
                "server, or add one of them"
            )
        return replace(self, names=names)

    def check_trust(self, fleet: Fleet) -> None:
        """Raise EngineError when `fleet` has `trust` and this server was started without, or the other way round.

        It has other folders then, and a version that it has loaded from them isn't loaded again.
        """
        if self.copies != (fleet.trust is not None):
            then, now = ("with", "without") if self.copies else ("without", "with")
            raise EngineError(
                f"the {self.title} was started {then} `trust`, and {fleet.file} is {now} it now. Stop the server and "
                "start it again"
            )

    def places(self, fleet: Fleet) -> Places:
        """Return the paths and ports of this server."""
        if self.is_container:
            return in_container()
        return on_host(fleet, self.grpc_port, self.rest_port, config_folder(fleet, self.engine, self.grpc_port))


def fleet_id(fleet: Fleet) -> str:
    """Return a name that is unique on this machine: the fleet's folder and a hash of its file's path."""
    file = fleet.file.resolve()
    slug = re.sub(r"[^a-z0-9]+", "-", file.parent.name.lower()).strip("-")[:30] or "fleet"
    return f"{slug}-{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


def config_folder(fleet: Fleet, engine: str, grpc_port: int) -> Path:
    """Return the folder with the configuration of a server."""
    return fleet_folder(fleet) / f"{engine}-{grpc_port}" / "config"


def write_config(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files of a configuration, each whole or not at all, and remove others."""
    with writing(folder):
        # A container has another user, so the files are readable. The folder keeps other users of this machine out.
        for parent in (folder.parents[2], folder.parents[1]):
            parent.mkdir(parents=True, exist_ok=True)
            parent.chmod(0o700)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        for name, content in files.items():
            write_file(folder / name, content)
        for path in folder.iterdir():
            if path.name not in files:
                path.unlink()


def write_file(path: Path, content: str) -> None:
    """Write a file whole or not at all, unless it has this content."""
    data = content.encode()
    with writing(path):
        if not path.is_file() or path.read_bytes() != data:
            with written_whole(path) as file:
                file.write(data)


def read_models_config(path: Path) -> Any:
    """Return the ModelServerConfig that a server reads from `path`. Raises EngineError when it isn't one."""
    try:
        return kept.models_config(kept.read(path))
    except (FileNotFoundError, kept.KeptError) as error:
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error)
        raise EngineError(
            f"{path}, the server's configuration, can't be read: {reason}. Stop the server and start it again, which "
            "writes the file"
        ) from None


def write_models_config(path: Path, config: Any) -> None:
    """Write the ModelServerConfig that a server reads from `path`, whole or not at all."""
    with writing(path), written_whole(path) as file:
        file.write(text(config).encode())


def note(fleet: Fleet, server: Running) -> None:
    """Write the note of `server`, beside its configuration."""
    path = config_folder(fleet, server.engine, server.grpc_port).parent / NOTE
    with writing(path), written_whole(path) as file:
        file.write(json.dumps(asdict(server), indent=2).encode())


def forget(fleet: Fleet, engine: str, grpc_port: int) -> None:
    """Remove the folder of a server, and parent folders that are empty then."""
    shutil.rmtree(config_folder(fleet, engine, grpc_port).parent, ignore_errors=True)
    for folder in (fleet_folder(fleet), fleet_folder(fleet).parent):
        # A folder that isn't empty stays.
        with contextlib.suppress(OSError):
            folder.rmdir()


def running(fleet: Fleet, exists: Callable[[str], bool]) -> list[Running]:
    """Return the fleet's running servers, and forget those that ended. `exists` returns whether a container exists.

    Raises EngineError when a note can't be read, or names a process that isn't the server's.
    """
    found = []
    for path in sorted(fleet_folder(fleet).glob(f"*/{NOTE}")):
        with contextlib.suppress(FileNotFoundError):
            server = _read_note(path)
            if server.container is not None:
                alive = exists(server.container)
            elif (alive := process_is_alive(server.pid)) and server.began != began(server.pid):
                # Another process has the number now. But if something listens there, it may be the server.
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
        raise EngineError(_unknown(path, f"is not a valid note of a server: {error}")) from None
    # The folder is removed when the server has ended, so it must be the server's own.
    if path.parent.name != f"{server.engine}-{server.grpc_port}" or (server.pid is None) == (server.container is None):
        raise EngineError(_unknown(path, "is the note of another server"))
    return server


def _unknown(path: Path, what: str) -> str:
    return (
        f"{path} {what}. Stop the server if it still runs, and remove its folder: "
        f"`rm -r {shlex.quote(str(path.parent))}`"
    )


def fleet_folder(fleet: Fleet) -> Path:
    """Return the folder of the fleet's running servers."""
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    except RuntimeError:
        raise EngineError("this user has no home folder. Set XDG_STATE_HOME to a writable folder") from None
    return Path(base, "tensorflow-serving-toolkit", fleet_id(fleet)).absolute()


def began(pid: int | None) -> str | None:
    """Return when a process began, unique on this machine; None if the kernel doesn't provide it."""
    with contextlib.suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name of a program, in parentheses, may contain any character. https://man7.org/linux/man-pages/man5/proc.5.html
        return f"{boot}/{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    return None


def _listens(server: Running) -> bool:
    """Return whether something listens on a server's REST port."""
    with contextlib.suppress(OSError), socket.create_connection((local(server.host), server.rest_port), 1):
        return True
    return False


def process_is_alive(pid: int | None) -> bool:
    """Return whether there is a process with that number."""
    if pid is None or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
