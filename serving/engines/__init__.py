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

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.processes import ports
from tfserving.serving.lint import Problem
from tfserving.serving.models_yaml.fleet import Fleet


class EngineError(Exception):
    """A server can't be started or did not stay up; the text says which part and why."""


@dataclass(frozen=True)
class Plan:
    """What an engine is asked to serve, and where. `names` are models of `fleet`; ports are TCP ports of `host`.

    `whole` says that nobody chose the models: the server has all that the fleet has, later ones too.
    """

    fleet: Fleet
    names: tuple[str, ...]
    host: str
    grpc_port: int
    rest_port: int
    whole: bool = False

    @property
    def grpc_address(self) -> str:
        """Where a client of this machine finds gRPC."""
        return address(self.host, self.grpc_port)

    @property
    def rest_address(self) -> str:
        """Where a client of this machine finds REST."""
        return address(self.host, self.rest_port)

    @property
    def url(self) -> str:
        """Where the toolkit's own checks go."""
        return own_url(self.grpc_address, self.rest_address, tls=self.fleet.server.tls is not None)


def own_url(grpc: str, rest: str, *, tls: bool) -> str:
    """Where the toolkit's own checks go: to gRPC, whose checks the metrics page doesn't count; with TLS to REST."""
    return f"http://{rest}" if tls else f"grpc://{grpc}"


def address(host: str, port: int) -> str:
    """Host and port of a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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

    def kill(self) -> None:
        """Ends the server at once. Does nothing to one that is STOPPED."""


class Engine(Protocol):
    """A way to run a model server."""

    name: str

    def unusable(self) -> str | None:
        """Why this engine can't be used on this machine; None when it can."""

    def prepare(self, fleet: Fleet, say: Callable[[str], None]) -> None:
        """Gets what a server of `fleet` needs and this machine lacks. Raises EngineError."""

    def start(self, plan: Plan) -> Server:
        """Starts a server for `plan`, which has been checked; returns it STARTING."""


def check(plan: Plan, taken: frozenset[int] = frozenset()) -> None:
    """Raises EngineError when a port of `plan` is taken, by something other than what has the ports `taken`."""
    if plan.grpc_port == plan.rest_port:
        raise EngineError(f"gRPC and REST can't both have port {plan.grpc_port}; give --port and --rest-port")
    try:
        for flag, port in (("port", plan.grpc_port), ("rest-port", plan.rest_port)):
            if port not in taken:
                ports.claim(plan.host, port, flag).close()
    except StartError as error:
        raise EngineError(f"{error}; give another") from None


def refuse(problems: Iterable[Problem], say: Callable[[str], None]) -> None:
    """Says the warnings among `problems`. Raises EngineError with the others, if there are."""
    found = list(problems)
    for problem in found:
        if problem.warning:
            say(str(problem))
    if errors := [str(problem) for problem in found if not problem.warning]:
        raise EngineError("\n".join(errors))


def check_versions(fleet: Fleet, names: tuple[str, ...]) -> None:
    """Raises EngineError when one of the models `names` has no version."""
    for name in names:
        if not fleet.versions(name):
            raise EngineError(
                f"model {name!r} has no version in {fleet.model_folder(name)}; `make export MODEL={name}` or "
                f"`tfserving export build {name}` makes one"
            )
