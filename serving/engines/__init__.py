"""What runs a model server: `docker`, `native` or `embedded`, behind one small protocol.

A server that an engine starts lives like this:

            start                 every model is available
    (none) ───────► STARTING ───────────────────────────────► READY
                        │                                       │
                        │ it exits, or time runs out            │ stop, or it exits
                        ▼                                       ▼
                     STOPPED ◄──────────────────────────────────┘

Everything that can be known beforehand is checked before `start`: the engine is usable, the ports are free, every
model has a version. A server that fails while STARTING is stopped, whatever the reason, before the error is raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from serving.embedded import ports
from serving.embedded.errors import StartError
from serving.fleet import Fleet


class EngineError(Exception):
    """A server can't be started or did not stay up; the text says which part and why."""


@dataclass(frozen=True)
class Plan:
    """What an engine is asked to serve, and where. `names` are models of `fleet`; ports are TCP ports of `host`."""

    fleet: Fleet
    names: tuple[str, ...]
    host: str
    grpc_port: int
    rest_port: int

    @property
    def grpc_address(self) -> str:
        """Where a client of this machine finds gRPC."""
        return self._address(self.grpc_port)

    @property
    def rest_address(self) -> str:
        """Where a client of this machine finds REST."""
        return self._address(self.rest_port)

    def _address(self, port: int) -> str:
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


class Server(Protocol):
    """A model server that an engine started."""

    def wait_until_ready(self, seconds: float) -> dict[str, int]:
        """Waits until every model is available and returns their versions; STARTING → READY.

        Raises EngineError when the server exits or `seconds` pass first; it is stopped by then.
        """

    def wait(self) -> int:
        """Waits until the server exits by itself; returns its exit code. READY → STOPPED."""

    def stop(self) -> int:
        """Drains and ends the server; returns its exit code. Does nothing to one that is STOPPED."""


class Engine(Protocol):
    """A way to run a model server."""

    name: str

    def unusable(self) -> str | None:
        """Why this engine can't be used on this machine; None when it can."""

    def start(self, plan: Plan) -> Server:
        """Starts a server for `plan`, which has been checked; returns it STARTING."""


def check(plan: Plan) -> None:
    """Raises EngineError when a port of `plan` is taken."""
    if plan.grpc_port == plan.rest_port:
        raise EngineError(f"gRPC and REST can't both have port {plan.grpc_port}; give --port and --rest-port")
    try:
        for flag, port in (("port", plan.grpc_port), ("rest-port", plan.rest_port)):
            ports.claim(plan.host, port, flag).close()
    except StartError as error:
        raise EngineError(f"{error}; give another") from None


def check_versions(fleet: Fleet, names: tuple[str, ...]) -> None:
    """Raises EngineError when one of the models `names` has no version to serve, or not one that has a label."""
    for name in names:
        versions = fleet.versions(name)
        for label, version in fleet.models[name].labels.items():
            if versions and version not in versions:
                raise EngineError(
                    f"model {name!r}: label {label!r} is for version {version}, which is not in "
                    f"{fleet.model_folder(name)}; its versions: {', '.join(map(str, versions))}"
                )
        if not versions:
            raise EngineError(
                f"model {name!r} has no version in {fleet.model_folder(name)}; `make export MODEL={name}` or "
                f"`python -m export build {name}` makes one"
            )
