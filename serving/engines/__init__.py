"""The engines that run a model server: `docker`, `native` and `embedded`, behind one protocol.

The states of a server that an engine starts:

            start                 every model is available
    (none) ───────► STARTING ───────────────────────────────► READY
                        │                                       │
                        │ it exits, or is too late            │ stop, or it exits
                        ▼                                       ▼
                     STOPPED ◄──────────────────────────────────┘

Before `start` these are checked: the engine is usable, the ports are free, every model has a version. A server that
fails while STARTING is stopped before the error is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from tfserving.foundation.command.progress import Progress
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.processes import ports
from tfserving.serving.lint import Problem
from tfserving.serving.models_yaml.fleet import Fleet

# Gets the current state of something that takes long.
Report = Callable[[str], None]


class EngineError(Exception):
    """A server can't be started, changed or reached; the text names the part and the reason."""


class UnreachableError(EngineError):
    """The Docker Engine or a server can't be reached."""


@dataclass(frozen=True)
class Plan:
    """What an engine serves, and where. `names` are models of `fleet`; ports are TCP ports of `host`.

    With `whole` the server serves all models of the fleet, also those that are added later.
    """

    fleet: Fleet
    names: tuple[str, ...]
    host: str
    grpc_port: int
    rest_port: int
    whole: bool = False

    @property
    def grpc_address(self) -> str:
        """The gRPC address for clients on this machine."""
        return address(local(self.host), self.grpc_port)

    @property
    def rest_address(self) -> str:
        """The REST address for clients on this machine."""
        return address(local(self.host), self.rest_port)

    @property
    def url(self) -> str:
        """The URL for the toolkit's own checks."""
        return own_url(self.grpc_address, self.rest_address, tls=self.fleet.server.tls is not None)


def own_url(grpc: str, rest: str, *, tls: bool) -> str:
    """Return the URL for the toolkit's own checks: gRPC, where the metrics page doesn't count them; with TLS REST."""
    return f"http://{rest}" if tls else f"grpc://{grpc}"


def address(host: str, port: int) -> str:
    """Return host and port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local(host: str) -> str:
    """Return the address where this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - it is replaced


class Server(Protocol):
    """A model server that an engine started."""

    def wait_until_ready(self, seconds: float, report: Report) -> dict[str, int]:
        """Wait until every model is available and return their versions; STARTING → READY.

        `report` receives the current state. Raises EngineError when the server exits or `seconds` pass first; the
        server is stopped then.
        """

    def wait(self) -> int:
        """Wait until the server exits by itself and return its exit code. READY → STOPPED."""

    def stop(self) -> int:
        """Drain and end the server and return its exit code. Does nothing if it is STOPPED."""

    def kill(self) -> None:
        """End the server at once. Does nothing if it is STOPPED."""


class Engine(Protocol):
    """A way to run a model server."""

    name: str

    def unusable(self) -> str | None:
        """Return why this engine can't be used on this machine; None if it can."""

    def prepare(self, fleet: Fleet, progress: Progress) -> None:
        """Get what a server of `fleet` needs and this machine lacks. Raises EngineError."""

    def start(self, plan: Plan) -> Server:
        """Start a server for `plan`, which was checked, and return it STARTING."""


def check(plan: Plan, taken: frozenset[int] = frozenset()) -> None:
    """Raise EngineError when a port of `plan` is in use, unless it is one of the fleet's own ports `taken`."""
    if plan.grpc_port == plan.rest_port:
        raise EngineError(f"gRPC and REST can't share port {plan.grpc_port}. Set --port and --rest-port")
    try:
        for flag, port in (("port", plan.grpc_port), ("rest-port", plan.rest_port)):
            if port not in taken:
                ports.claim(plan.host, port, flag).close()
    except StartError as error:
        raise EngineError(str(error)) from None


def refuse(problems: Iterable[Problem], say: Callable[[str], None]) -> None:
    """Print the warnings among `problems` with `say`. Raises EngineError with the errors, if there are any."""
    found = list(problems)
    for problem in found:
        if problem.warning:
            say(str(problem))
    if errors := [str(problem) for problem in found if not problem.warning]:
        raise EngineError("\n".join(errors))
