"""Waiting until a server that was started has every model available."""

from __future__ import annotations

import time
from collections.abc import Callable

from tfserving.clients import Client, connect
from tfserving.clients.answers import VersionStatus
from tfserving.clients.errors import DeadlineExceeded, NotFound, ServingError, Unavailable
from tfserving.clients.page import read_page
from tfserving.serving.engines import EngineError, Plan
from tfserving.serving.models_yaml.fleet import Fleet

_POLL_SECONDS = 0.1


def await_models(plan: Plan, seconds: float, check: Callable[[], None], lines: Callable[[], str]) -> dict[str, int]:
    """Waits until every model of `plan` is available and REST is open; returns the models' versions.

    Versions that models.yaml wants beside the newest must be available too. `check` raises what there is to say when
    the server has ended; `lines` are the last ones that it printed. Status is read over gRPC, which the metrics page
    doesn't count. With TLS it is read over REST: who the server is, is for its clients to verify.
    Raises EngineError when `seconds` pass first or a model can't be served.
    """
    deadline = time.monotonic() + seconds
    tls = plan.fleet.server.tls is not None

    def late(said: str) -> str:
        return f"it was not ready in time (--wait says how long): {said}; the server's last lines:\n{lines()}"

    with connect(plan.url) as client:
        versions = {name: _await(client, name, deadline, check, lines) for name in plan.names}

        def missing() -> str | None:
            check()
            return unavailable(client, plan.fleet, plan.names) or (None if tls else _closed(plan.rest_address))

        wait_for(missing, deadline, late)
    return versions


def _closed(address: str) -> str | None:
    """Why REST isn't open; None when it is. The page is one that no model server has, and none counts."""
    try:
        read_page(f"http://{address}/")
    except NotFound:
        return None
    except ServingError as error:
        return str(error)
    return None


def wait_for(missing: Callable[[], str | None], deadline: float, late: Callable[[str], str]) -> None:
    """Waits until nothing is missing, or `deadline`, of time.monotonic, has passed.

    Raises EngineError then, with what `late` makes of what is missing still.
    """
    while True:
        try:
            said = missing()
        except ServingError as error:
            said = str(error)
        if said is None:
            return
        if time.monotonic() > deadline:
            raise EngineError(late(said))
        time.sleep(_POLL_SECONDS)


def unavailable(client: Client, fleet: Fleet, names: tuple[str, ...]) -> str | None:
    """Which version that is to be served isn't yet; None when all are. Raises EngineError for one that failed."""
    for name in names:
        states = states_of(client, name)
        for version in fleet.kept(name):
            status = states.get(version)
            if status is not None and status.failed:
                raise EngineError(f"model {name!r}: {status}")
            if status is None or status.state != "AVAILABLE":
                return f"model {name!r}: {status or f'version {version} was not known'}"
    return None


def states_of(client: Client, name: str) -> dict[int, VersionStatus]:
    """The state of each version of a model that a server knows."""
    try:
        return {status.version: status for status in client.status(name)}
    except NotFound:
        return {}


def _await(client: Client, name: str, deadline: float, check: Callable[[], None], lines: Callable[[], str]) -> int:
    """Waits for one model over one protocol."""
    while True:
        check()
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise EngineError(
                f"model {name!r} was not available in time (--wait says how long); the server's last lines:\n{lines()}"
            )
        try:
            return client.wait_until_available(name, timeout=min(0.5, remaining))
        except (Unavailable, DeadlineExceeded):
            continue
        except ServingError as error:
            raise EngineError(f"model {name!r} can't be served: {error}") from None
