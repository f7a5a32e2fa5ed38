"""Waiting until a server has every model available."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable

from tfserving.clients import Client, connect
from tfserving.clients.errors import DeadlineExceeded, InvalidArgument, NotFound, ServingError, Unavailable, Unknown
from tfserving.clients.page import read_page
from tfserving.clients.results import VersionStatus
from tfserving.foundation.command.hints import typed
from tfserving.serving.engines import EngineError, Plan, Report
from tfserving.serving.models_yaml.fleet import CANARY
from tfserving.serving.served import Served, all_served

_POLL_SECONDS = 0.1
# A server that gets a version in a new configuration starts to load it within this time, although it looks for versions
# only every second. A server that polls its configuration takes longer.
BELIEVED_SECONDS = 5.0
# All states but END.
_LOADED = frozenset({"START", "LOADING", "AVAILABLE", "UNLOADING"})


def await_models(
    plan: Plan, seconds: float, check: Callable[[], None], lines: Callable[[], str], report: Report
) -> dict[str, int]:
    """Wait until every model of `plan` is available and REST is open; return the version under each name.

    All models must be available, also the canaries, under names of their own. `check` raises an error when the server
    has ended, `lines` returns the last lines that it printed, and `report` receives the current state. Status is read
    over gRPC, which the metrics page doesn't count. With TLS it is read over REST, because verifying the server's
    identity is a task of its clients.

    Raises EngineError when `seconds` pass first or a model can't be served.
    """
    try:
        return _await_all(plan, time.monotonic() + seconds, check, lines, report)
    except EngineError as error:
        raise EngineError(f"{error}{_canary_hint(plan, str(error))}") from None


def _await_all(
    plan: Plan, deadline: float, check: Callable[[], None], lines: Callable[[], str], report: Report
) -> dict[str, int]:
    tls = plan.fleet.server.tls is not None

    def late(state: str) -> str:
        return f"the server was not ready within --wait: {state}; its last lines:\n{lines()}"

    with connect(plan.url) as client:
        served = all_served(plan.fleet, plan.names)
        versions = {}
        for number, one in enumerate(served):
            report(f"Loading {one.name} (model {number + 1} of {len(served)})")
            versions[one.name] = _await(client, one.name, deadline, check, lines)
        report("Waiting for all versions")

        def not_ready() -> str | None:
            check()
            # A newer version may be there by now.
            state = missing(client, all_served(plan.fleet, plan.names))
            return state or (None if tls else _closed(plan.rest_address))

        wait_for(not_ready, deadline, late)
    return versions


def _canary_hint(plan: Plan, error: str) -> str:
    """Return what to do about a canary that keeps a server from starting; "" if `error` names none."""
    for one in all_served(plan.fleet, plan.names):
        if one.is_canary and one.name in error:
            remove = typed(f"labels remove {one.model} {CANARY}", fleet=plan.fleet.file)
            return (
                f"\n{one.name} is models.{one.model}.labels.{CANARY} in models.yaml, and a server starts with all of "
                f"its models or not at all. `{remove}` removes it"
            )
    return ""


def _closed(address: str) -> str | None:
    """Return why REST isn't open; None if it is. No model server has or counts the page that is requested."""
    try:
        read_page(f"http://{address}/")
    except NotFound:
        return None
    except ServingError as error:
        return str(error)
    return None


def wait_for(missing: Callable[[], str | None], deadline: float, late: Callable[[str], str]) -> None:
    """Wait until `missing` returns None.

    Raises EngineError with the text of `late` if `deadline`, a time of time.monotonic, passes first.
    """
    while True:
        try:
            state = missing()
        except ServingError as error:
            state = str(error)
        if state is None:
            return
        if time.monotonic() > deadline:
            raise EngineError(late(state))
        time.sleep(_POLL_SECONDS)


class Earlier:
    """Distinguishes a version that fails now from one that failed earlier.

    TensorFlow Serving keeps the state of a failed version until it loads the version again, and forever if the
    configuration doesn't name the version. Create this object before a change is sent.
    """

    def __init__(self, client: Client, names: Iterable[str], seconds: float = BELIEVED_SECONDS) -> None:
        """`names` are those to serve. An earlier failure that stays for `seconds` counts as a new one.

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
        """Return whether a version under `name` has failed since."""
        key = name, status.version
        if not status.failed:
            # It is loaded again: a failure from now on is new, even with the same text.
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
    """Return what a server doesn't serve yet of `served`, or still serves of `before`; None if nothing is missing.

    Without `earlier`, for a server that was just started, every failure counts. With `reachable`, a version that is to
    be unloaded may still be loading, as long as no client gets it. Raises EngineError for a version that failed, and
    ServingError.
    """
    wanted, old = ({one.name: one for one in some} for some in (served, before))
    for one in wanted.values():
        labels = {*(old[one.name].labels if one.name in old else ()), *one.labels}
        if state := _not_loaded(client, one, earlier) or _not_labelled(client, one, labels):
            return f"model {one.name!r}: {state}"
    for name in {**wanted, **old}:
        if state := _not_unloaded(client, name, wanted.get(name), {"AVAILABLE"} if reachable else _LOADED):
            return f"model {name!r}: {state}, which should be unloaded"
    return None


def _not_loaded(client: Client, one: Served, earlier: Earlier | None) -> str | None:
    states = states_of(client, one.name)
    for version in one.versions:
        status = states.get(version)
        if status is not None and (earlier.failed(one.name, status) if earlier else status.failed):
            raise EngineError(f"model {one.name!r}: {status}")
        if status is None or status.state != "AVAILABLE":
            return str(status or f"version {version} is unknown to the server")
    return None


def _not_labelled(client: Client, one: Served, labels: set[str]) -> str | None:
    for label in sorted(labels):
        target, found = one.labels.get(label), label_version(client, one.name, label)
        if found != target:
            return f"label {label!r}: got {_version(found)}, expected {_version(target)}"
    return None


def _version(number: int | None) -> str:
    return "no version" if number is None else f"version {number}"


def _not_unloaded(client: Client, name: str, one: Served | None, states: Container[str]) -> str | None:
    versions = one.versions if one else ()
    for version, status in states_of(client, name).items():
        newer = one is not None and one.newest and version > max(versions, default=0)
        if version not in versions and not newer and status.state in states:
            return str(status)
    return None


def taken(error: ServingError) -> bool:
    """Return whether a server that returned `error` for a new configuration has the configuration nevertheless.

    A call that adds a model returns an error when a version of that name fails, and also when one was unloaded before:
    TensorFlow Serving mistakes the state that it remembers for the new one. The states of the versions show which, see
    `missing`. https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/core/servable_state_monitor.cc
    """
    return isinstance(error, Unknown) and "did not become available" in error.text


def label_version(client: Client, model: str, label: str) -> int | None:
    """Return the version of a label on a server; None if it has no such label."""
    try:
        return client.metadata(model, label=label).version
    except (InvalidArgument, NotFound):
        return None


def states_of(client: Client, name: str) -> dict[int, VersionStatus]:
    """Return the state of each version of a model that a server knows."""
    try:
        return {status.version: status for status in client.status(name)}
    except NotFound:
        return {}


def _await(client: Client, name: str, deadline: float, check: Callable[[], None], lines: Callable[[], str]) -> int:
    """Wait for one model over one protocol."""
    while True:
        check()
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise EngineError(f"model {name!r} was not available within --wait; the server's last lines:\n{lines()}")
        try:
            return client.wait_until_available(name, timeout=min(0.5, remaining))
        except (Unavailable, DeadlineExceeded):
            continue
        except ServingError as error:
            raise EngineError(f"model {name!r} can't be served: {error}") from None
