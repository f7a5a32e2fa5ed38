"""Rollouts on the servers of this machine (embedded, native or Docker), through the models.config of each."""

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
from tfserving.foundation.devices import Device
from tfserving.foundation.files import written_whole
from tfserving.k8s.hints import recommended
from tfserving.k8s.rollout.state import Request, State, read_state
from tfserving.k8s.rollout.target import HeldError, Instance, NoServerError, RolloutError, Serve
from tfserving.serving import kept, live
from tfserving.serving.changing import changing
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.devices import fleet_device
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

# Time for a server to load a model that is new to it. The call doesn't wait for new versions of a known model.
_RELOAD_SECONDS = 60.0


@dataclass(frozen=True)
class LocalInstance:
    """A server of this machine, and the models.config that it reads at its start or every few seconds.

    `device` is the kind of device by models.yaml, None if that doesn't determine it.
    """

    server: Running
    file: Path
    device: Device | None = None

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

    def configure(self, serve: Serve, *, keep: bool = True) -> None:
        """Write its models.config, and send it to a server that accepts changes by a call.

        Raises EngineError when the file is invalid or can't be written, and ServingError when the server rejects it;
        the file is then unchanged.
        """
        before = read_models_config(self.file)
        if not keep and not self.server.poll_seconds:
            live.send(self.server, serve.applied(before), _RELOAD_SECONDS, _log)
            return
        try:
            live.tell(self.server, self.file, serve.applied(before), _RELOAD_SECONDS, _log)
        except ServingError:
            write_models_config(self.file, before)
            raise

    def leaves(self) -> bool:
        """See Instance. Clients of a local server don't switch to another one."""
        return False


class LocalTarget:
    """The fleet's servers that run on this machine; `exists` returns whether a container id exists."""

    def __init__(self, fleet: Fleet, model: str, exists: Callable[[str], bool]) -> None:
        self._fleet, self._model, self._exists = fleet, model, exists

    def instances(self) -> list[Instance]:
        """See Target."""
        found = [self._instance(one) for one in running(self._fleet, self._exists) if self._model in one.names]
        if not found:
            raise NoServerError(
                f"no server on this machine serves {self._model!r}. Start one with `{recommended('serve')}`, or "
                "roll out on a cluster with --cluster."
            )
        return list(found)

    def keep(self, serve: Serve) -> None:
        """See Target. Every server starts with its own file, so nothing is left to do."""

    def finish(self, model: str, labels: Mapping[str, int]) -> None:
        """See Target."""
        write_labels(self._fleet.file, model, labels)

    def close(self) -> None:
        """See Target."""

    def _instance(self, server: Running) -> LocalInstance:
        server.check_trust(self._fleet)
        folder = config_folder(self._fleet, server.engine, server.grpc_port)
        return LocalInstance(server, folder / MODELS_CONFIG, fleet_device(self._fleet, server.engine))


class LocalStore:
    """The state of a model's rollouts, in the state folder of the fleet; a locked file is the lease."""

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
            raise RolloutError(self._invalid(path, f"is not the state of a rollout: {error}")) from None
        if state.model != self._model:
            raise RolloutError(
                self._invalid(path, f"contains the state of a rollout of {state.model!r}, expected {self._model!r}")
            )
        return state

    def others(self) -> list[State]:
        """See Store. Local rollouts of several models don't exclude one another."""
        return []

    def save(self, state: State) -> None:
        """See Store."""
        self._write("json", state.text())

    def send_request(self, request: Request) -> None:
        """See Store."""
        self._write("request", request)

    def take_request(self) -> Request | None:
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
                raise HeldError(
                    f"another process is rolling out {self._model!r}. Follow it with "
                    f"`{recommended(f'rollout status {self._model} --watch')}`."
                )
            try:
                # A concurrent change of labels or models would undo changes of the rollout.
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

    def _write(self, kind: str, text: str) -> None:
        with writing(self._path(kind)):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with written_whole(self._path(kind)) as file:
                file.write(text.encode())

    def _invalid(self, path: Path, problem: str) -> str:
        remove = "rm -r" if path.is_dir() else "rm"
        return (
            f"{path} {problem}. Discard the rollout with `{remove} {shlex.quote(str(path))}`, then apply models.yaml "
            f"to the servers with `{recommended('serve reload')}`."
        )


def _log(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def _locked(file: IO[str]) -> bool:
    """Lock an open file until it is closed or the process ends; return whether it was free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
