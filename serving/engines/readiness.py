"""Waiting until a server that was started has every model available."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable

from tfserving.clients import Client, connect
from tfserving.clients.errors import DeadlineExceeded, InvalidArgument, NotFound, ServingError, Unavailable, Unknown
from tfserving.clients.page import read_page
from tfserving.clients.results import VersionStatus
from tfserving.serving.engines import EngineError, Plan
from tfserving.serving.models_yaml.fleet import CANARY
from tfserving.serving.served import Served, all_served

_POLL_SECONDS = 0.1
# A server that has a version in a new configuration tries it within this time, even when it looks for versions every
# second; one that polls its configuration takes longer.
BELIEVED_SECONDS = 5.0
# All states but END.
_LOADED = frozenset({"START", "LOADING", "AVAILABLE", "UNLOADING"})


def await_models(plan: Plan, seconds: float, check: Callable[[], None], lines: Callable[[], str]) -> dict[str, int]:
    """Waits until every model of `plan` is available and REST is open; returns the version under each name.

    All that models.yaml wants must be available, the canaries too, under names of their own. `check` raises what there
    is to say when the server has ended; `lines` are the last ones that it printed. Status is read over gRPC, which the
    metrics page doesn't count. With TLS it is read over REST: who the server is, is for its clients to verify.
    Raises EngineError when `seconds` pass first or a model can't be served.
    """
    try:
        return _await_all(plan, time.monotonic() + seconds, check, lines)
    except EngineError as error:
        raise EngineError(f"{error}{_canary_hint(plan, str(error))}") from None


def _await_all(plan: Plan, deadline: float, check: Callable[[], None], lines: Callable[[], str]) -> dict[str, int]:
    tls = plan.fleet.server.tls is not None

    def late(said: str) -> str:
        return f"it was not ready in time (--wait says how long): {said}; the server's last lines:\n{lines()}"

    with connect(plan.url) as client:
        served = all_served(plan.fleet, plan.names)
        versions = {one.name: _await(client, one.name, deadline, check, lines) for one in served}

        def not_ready() -> str | None:
            check()
            # A newer version may be there by now.
            said = missing(client, all_served(plan.fleet, plan.names))
            return said or (None if tls else _closed(plan.rest_address))

        wait_for(not_ready, deadline, late)
    return versions


def _canary_hint(plan: Plan, said: str) -> str:
    """What to do about a canary that keeps a server from starting; nothing when `said` names none."""
    for one in all_served(plan.fleet, plan.names):
        if one.is_canary and one.name in said:
            return (
                f"\n{one.name} is `models.{one.model}.labels.{CANARY}` in models.yaml, and a server starts with all of "
                f"its models or not at all; `tfserving serve labels remove {one.model} {CANARY}` leaves it out"
            )
    return ""


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


class Earlier:
    """Tells a version that fails now from one that failed in an earlier try.

    TensorFlow Serving keeps the state of a version that failed until it loads the version again, and for ever where
    nothing has the version in its configuration. Make one of these before a change is sent.
    """

    def __init__(self, client: Client, names: Iterable[str], seconds: float = BELIEVED_SECONDS) -> None:
        """`names` are those that are to be served; an old failure is a new one when it stays for `seconds`.

        Raises ServingError.
        """
        self._failed = {
            (name, version): str(status)
            for name in names
            for version, status in states_of(client, name).items()
            if status.failed
        }
        self._until = time.monotonic() + seconds

    def failed(self, name: str, status: VersionStatus) -> bool:
        """Whether a version under `name` has failed since."""
        key = name, status.version
        if not status.failed:
            # It is tried again: what comes now is new, whatever it says.
            self._failed.pop(key, None)
            return False
        return str(status) != self._failed.get(key) or time.monotonic() > self._until


def missing(
    client: Client,
    served: Iterable[Served],
    earlier: Earlier | None = None,
    before: Iterable[Served] = (),
    *,
    reachable: bool = False,
) -> str | None:
    """What a server doesn't serve yet of `served`, or still serves of `before`; None when all is as it should be.

    Without `earlier`, for a server that was just started, every failure counts. With `reachable`, what is to go may be
    there as long as no client gets it: it may still be loading. Raises EngineError for a version that failed, and
    ServingError.
    """
    wanted, old = ({one.name: one for one in some} for some in (served, before))
    for one in wanted.values():
        labels = {*(old[one.name].labels if one.name in old else ()), *one.labels}
        if said := _not_loaded(client, one, earlier) or _not_labelled(client, one, labels):
            return f"model {one.name!r}: {said}"
    for name in {**wanted, **old}:
        if said := _not_unloaded(client, name, wanted.get(name), {"AVAILABLE"} if reachable else _LOADED):
            return f"model {name!r}: {said}, which is to be unloaded"
    return None


def _not_loaded(client: Client, one: Served, earlier: Earlier | None) -> str | None:
    states = states_of(client, one.name)
    for version in one.versions:
        status = states.get(version)
        if status is not None and (earlier.failed(one.name, status) if earlier else status.failed):
            raise EngineError(f"model {one.name!r}: {status}")
        if status is None or status.state != "AVAILABLE":
            return str(status or f"version {version} was not known")
    return None


def _not_labelled(client: Client, one: Served, labels: set[str]) -> str | None:
    for label in sorted(labels):
        target, found = one.labels.get(label), label_version(client, one.name, label)
        if found != target:
            return f"label {label!r} is at {found or 'no version'}, not at {target or 'none'}"
    return None


def _not_unloaded(client: Client, name: str, one: Served | None, states: Container[str]) -> str | None:
    versions = one.versions if one else ()
    for version, status in states_of(client, name).items():
        newer = one is not None and one.newest and version > max(versions, default=0)
        if version not in versions and not newer and status.state in states:
            return str(status)
    return None


def taken(error: ServingError) -> bool:
    """Whether a server that returned this for a new configuration has the configuration all the same.

    A call that adds a model returns an error when a version of that name fails, and also when one was unloaded before:
    TensorFlow Serving takes the state that it remembers for that of the new try. The versions' states tell, see
    `missing`. https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/core/servable_state_monitor.cc
    """
    return isinstance(error, Unknown) and "did not become available" in error.text


def label_version(client: Client, model: str, label: str) -> int | None:
    """The version that a label means on a server; None when it has no such label."""
    try:
        return client.metadata(model, label=label).version
    except (InvalidArgument, NotFound):
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
