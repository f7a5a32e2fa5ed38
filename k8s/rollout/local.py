"""Rollouts over the servers of this machine, embedded, native or Docker's, by the file that each of them reads."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast, get_args

from google.protobuf import text_format

from tfserving.foundation.files import written_whole
from tfserving.foundation.messages import ModelServerConfig
from tfserving.k8s.rollout.state import Request, State, read_state
from tfserving.k8s.rollout.target import HeldError, Instance, RolloutError, Serve
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.config_messages import text
from tfserving.serving.engines import address
from tfserving.serving.models_yaml.file import write_labels
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import Running, config_folder, fleet_folder, running


@dataclass(frozen=True)
class LocalInstance:
    """A server that polls its models.config."""

    name: str
    grpc: str | None
    rest: str
    file: Path

    def tell(self, serve: Serve) -> None:
        """Writes its file, which it reads every second."""
        config = serve.applied(text_format.Parse(self.file.read_text(), ModelServerConfig()))
        with written_whole(self.file) as file:
            file.write(text(config).encode())


class LocalTarget:
    """The fleet's servers that run on this machine; `exists` says whether there is a container of that id."""

    def __init__(self, fleet: Fleet, model: str, exists: Callable[[str], bool]) -> None:
        self._fleet, self._model, self._exists = fleet, model, exists

    def instances(self) -> list[Instance]:
        """See Target."""
        found = [self._instance(one) for one in running(self._fleet, self._exists) if self._model in one.names]
        if not found:
            raise RolloutError(f"no server of this machine serves {self._model!r}; `make serve` starts one")
        return list(found)

    def keep(self, serve: Serve) -> None:
        """Every server has a file of its own, and starts with that."""

    def finish(self, serve: Serve) -> None:
        """See Target."""
        write_labels(self._fleet.file, serve.model, serve.labels)

    def close(self) -> None:
        """See Target."""

    def _instance(self, server: Running) -> LocalInstance:
        return LocalInstance(
            f"{server.engine} server on port {server.grpc_port}",
            None if server.tls else address(server.host, server.grpc_port),
            address(server.host, server.rest_port),
            config_folder(self._fleet, server.engine, server.grpc_port) / MODELS_CONFIG,
        )


class LocalStore:
    """The state of a model's rollouts in a folder beside the fleet's servers; a locked file is the lease."""

    def __init__(self, fleet: Fleet, model: str) -> None:
        self._folder = fleet_folder(fleet) / "rollouts"
        self._model = model

    def load(self) -> State | None:
        """See Store."""
        with contextlib.suppress(FileNotFoundError):
            return read_state(self._path("json").read_text())
        return None

    def others(self) -> list[State]:
        """Servers of this machine take changes of several models at a time."""
        return []

    def save(self, state: State) -> None:
        """See Store."""
        self._write("json", state.text())

    def ask(self, request: Request) -> None:
        """See Store."""
        self._write("request", request)

    def asked(self) -> Request | None:
        """See Store."""
        path = self._path("request")
        with contextlib.suppress(FileNotFoundError):
            request = path.read_text()
            path.unlink()
            return cast(Request, request) if request in get_args(Request) else None
        return None

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """See Store."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._path("lock").open("w") as file:
            if not _locked(file):
                raise HeldError(f"{self._model!r} is being rolled out by another shell; `rollout status` says how far")
            yield

    def held(self) -> bool:
        """See Store."""
        with contextlib.suppress(FileNotFoundError), self._path("lock").open() as file:
            return not _locked(file)
        return False

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._model}.{kind}"

    def _write(self, kind: str, said: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with written_whole(self._path(kind)) as file:
            file.write(said.encode())


def _locked(file: IO[str]) -> bool:
    """Takes the lock of an open file, which goes when the file is closed or the process ends; whether it was free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
