"""Rollouts over the servers of this machine, embedded, native or Docker's, by the file that each of them reads."""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast, get_args

from tfserving.clients.errors import ServingError
from tfserving.foundation.files import written_whole
from tfserving.k8s.rollout.state import Request, State, read_state
from tfserving.k8s.rollout.target import HeldError, Instance, RolloutError, Serve
from tfserving.serving import kept, live
from tfserving.serving.changing import changing
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.engines import EngineError, address
from tfserving.serving.kept import writing
from tfserving.serving.models_yaml.file import write_labels
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import (
    Running,
    config_folder,
    fleet_folder,
    read_models_config,
    running,
    write_models_config,
)

# How long a server may take to load a model that is new to it; new versions of a model are not waited for.
_RELOAD_SECONDS = 60.0


@dataclass(frozen=True)
class LocalInstance:
    """A server of this machine, and the models.config that it reads, at its start or every few seconds."""

    server: Running
    file: Path

    @property
    def name(self) -> str:
        """See Instance."""
        return self.server.title

    @property
    def grpc(self) -> str | None:
        """See Instance."""
        return None if self.server.tls else address(self.server.host, self.server.grpc_port)

    @property
    def rest(self) -> str:
        """See Instance."""
        return address(self.server.host, self.server.rest_port)

    def tell(self, serve: Serve, *, keep: bool = True) -> None:
        """Writes its file, and sends it to a server that takes changes by a call.

        Raises EngineError when the file isn't one, or can't be written, and ServingError when the server refuses it;
        the file is as it was then.
        """
        before = read_models_config(self.file)
        if not keep and not self.server.poll_seconds:
            live.send(self.server, serve.applied(before), _RELOAD_SECONDS, _say)
            return
        try:
            live.tell(self.server, self.file, serve.applied(before), _RELOAD_SECONDS, _say)
        except ServingError:
            write_models_config(self.file, before)
            raise

    def leaves(self) -> bool:
        """See Instance. Clients of this machine know no other server."""
        return False


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

    def finish(self, model: str, labels: Mapping[str, int]) -> None:
        """See Target."""
        write_labels(self._fleet.file, model, labels)

    def close(self) -> None:
        """See Target."""

    def _instance(self, server: Running) -> LocalInstance:
        folder = config_folder(self._fleet, server.engine, server.grpc_port)
        return LocalInstance(server, folder / MODELS_CONFIG)


class LocalStore:
    """The state of a model's rollouts in a folder beside the fleet's servers; a locked file is the lease."""

    def __init__(self, fleet: Fleet, model: str) -> None:
        self._folder = fleet_folder(fleet) / "rollouts"
        self._file = fleet.file
        self._model = model

    def load(self) -> State | None:
        """See Store."""
        path = self._path("json")
        try:
            state = read_state(kept.read(path))
        except FileNotFoundError:
            return None
        except kept.KeptError as error:
            raise RolloutError(self._unknown(path, f"is not the state of a rollout: {error}")) from None
        if state.model != self._model:
            raise RolloutError(self._unknown(path, f"has the state of a rollout of {state.model!r}"))
        return state

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
        with writing(path), contextlib.suppress(FileNotFoundError, kept.KeptError):
            request = kept.read(path)
            path.unlink()
            return cast(Request, request) if request in get_args(Request) else None
        return None

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """See Store."""
        with contextlib.ExitStack() as stack:
            with writing(self._path("lock")):
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                file = stack.enter_context(self._path("lock").open("w"))
            if not _locked(file):
                raise HeldError(f"{self._model!r} is being rolled out by another shell; `rollout status` says how far")
            try:
                # Labels and models that change meanwhile would take back what the rollout has changed.
                stack.enter_context(changing(self._file, shared=True))
            except EngineError as error:
                raise HeldError(str(error)) from None
            yield

    def held(self) -> bool:
        """See Store."""
        path = self._path("lock")
        with writing(path), contextlib.suppress(FileNotFoundError), path.open() as file:
            return not _locked(file)
        return False

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._model}.{kind}"

    def _write(self, kind: str, said: str) -> None:
        with writing(self._path(kind)):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with written_whole(self._path(kind)) as file:
                file.write(said.encode())

    def _unknown(self, path: Path, what: str) -> str:
        remove = "rm -r" if path.is_dir() else "rm"
        return (
            f"{path} {what}; `{remove} {shlex.quote(str(path))}` forgets the rollout, and `tfserving serve reload` "
            "then has the servers serve what models.yaml says"
        )


def _say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def _locked(file: IO[str]) -> bool:
    """Takes the lock of an open file, which goes when the file is closed or the process ends; whether it was free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
