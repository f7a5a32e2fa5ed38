"""Changing what a server serves while it runs: new versions, labels, models.

    check the configuration ──► the steps of `tfserving.serving.steps`: send each, wait until it is served
                                  └──► failed: the file and the server go back

Each step writes models.config, which a restart uses. TensorFlow Serving then receives the step by
HandleReloadConfigRequest, which waits for new models but not for new versions. A server with TLS and the embedded
server don't get this call. They poll the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tfserving.clients import Client, connect
from tfserving.clients.errors import DeadlineExceeded, ResourceExhausted, ServingError, Unavailable
from tfserving.serving import kept
from tfserving.serving.config import MODELS_CONFIG, POLL_SECONDS, health_check, models_config
from tfserving.serving.engines import EngineError
from tfserving.serving.engines.readiness import BELIEVED_SECONDS, Earlier, missing, states_of, taken, wait_for
from tfserving.serving.health import HEALTH
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import (
    Running,
    config_folder,
    read_models_config,
    write_file,
    write_models_config,
)
from tfserving.serving.served import Served, all_served, configured
from tfserving.serving.steps import steps

Say = Callable[[str], None]
# A configuration that was sent to a server, and what it serves then.
Sent: TypeAlias = tuple[Any, tuple[Served, ...]]
# Going back takes a server that accepts the call at most this long.
_BACK_SECONDS = 30.0
_SHORTEST_CALL = 1.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 2.0


def apply(fleet: Fleet, server: Running, wait: float, say: Say) -> None:
    """Make `server` serve its models as in `fleet`, which was checked and, with `trust`, admitted.

    `say` receives the progress.

    Raises EngineError when a version fails to load or `wait` seconds pass. The file and the server are as before then.
    The error includes the reason if the server can't go back.
    """
    server.check_trust(fleet)
    folder = config_folder(fleet, server.engine, server.grpc_port)
    path = folder / MODELS_CONFIG
    before = read_models_config(path)
    old_health = _kept_text(folder / HEALTH)
    wanted = models_config(fleet, server.names, server.places(fleet))
    new_health = health_check(fleet, server.names, server.places(fleet))
    deadline = time.monotonic() + wait
    with connect(server.url, timeout=5) as client:
        sent: list[Sent] = [(before, _serves(client, before, deadline))]
        made = steps(sent[0][1], all_served(fleet, server.names))
        try:
            for number, step in enumerate(made, 1):
                say(f"The {server.title}: {step.what} (step {number} of {len(made)}{_polls(server)}) …")
                (_, last), is_last = sent[-1], number == len(made)
                earlier = _earlier(client, server, step.served, deadline)
                sent.append((_written(step.served, before, wanted), step.served))
                if is_last:
                    write_file(folder / HEALTH, new_health)
                _take(server, path, sent[-1][0], deadline, say)
                # A server that loads the newest version by itself may have a newer one now.
                now = partial(all_served, fleet, server.names) if is_last else partial(tuple, step.served)
                wait_for(partial(_not_yet, client, now, earlier, last), deadline, _late)
        except BaseException as error:
            if old_health is not None:
                write_file(folder / HEALTH, old_health)
            try:
                _go_back(server, path, client, sent, say)
            except EngineError as failure:
                raise EngineError(f"{str(error) or 'interrupted'}. {failure}") from None
            if isinstance(error, EngineError):
                raise EngineError(f"{error}. The server serves the same versions as before") from None
            raise


def tell(server: Running, path: Path, config: Any, seconds: float, say: Say) -> None:
    """Write `config` to `path`, and send it to a server that doesn't poll the file, within `seconds`.

    Returns before the server serves it: a server that polls has not read it yet, and another one may still load it or
    fail to. To a busy server it is sent again after a pause, which `say` reports. Raises ServingError when the server
    rejects it or the time is over.
    """
    write_models_config(path, config)
    if not server.poll_seconds:
        send(server, config, seconds, say)


def send(server: Running, config: Any, seconds: float, say: Say) -> None:
    """Send `config` to a server that doesn't poll, without writing the file that a restart uses. See `tell`."""
    deadline, pause = time.monotonic() + seconds, _SHORTEST_PAUSE
    with connect(server.url) as client:
        while True:
            try:
                client.reload_config(config, timeout=max(deadline - time.monotonic(), _SHORTEST_CALL))
            except ResourceExhausted as error:
                # The server rejected it before reading it.
                if time.monotonic() + pause > deadline:
                    raise
                say(f"The {server.title} is busy ({error.text}). The change is sent again in {pause:g} s …")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except ServingError as error:
                if not taken(error):
                    raise
                return
            else:
                return


def _serves(client: Client, config: Any, deadline: float) -> tuple[Served, ...]:
    """Return what a server with `config` has loaded. Raises EngineError."""
    found: list[Served] = []

    def unknown() -> str | None:
        found.clear()
        for one in configured(config):
            states = states_of(client, one.name)
            there = {version for version, status in states.items() if status.state == "AVAILABLE"}
            versions = there if one.newest else there & {*one.versions}
            found.append(replace(one, versions=tuple(sorted(versions))))
        return None

    wait_for(unknown, deadline, _late)
    return tuple(found)


def _earlier(client: Client, server: Running, served: tuple[Served, ...], deadline: float) -> Earlier:
    """Return what failed under these names before a change is sent. Raises EngineError."""
    found: list[Earlier] = []

    def unknown() -> str | None:
        found.append(Earlier(client, [one.name for one in served], server.poll_seconds + BELIEVED_SECONDS))
        return None

    wait_for(unknown, deadline, _late)
    return found[0]


def _written(served: tuple[Served, ...], before: Any, wanted: Any) -> Any:
    """Return the ModelServerConfig of a step; `before` has the models that are to be removed."""
    models = {model.name: model for config in (before, wanted) for model in config.model_config_list.config}
    result = type(wanted)()
    for one in served:
        model = result.model_config_list.config.add()
        model.CopyFrom(models[one.name])
        model.ClearField("version_labels")
        model.version_labels.update(one.labels)
        if not one.newest:
            model.ClearField("model_version_policy")
            model.model_version_policy.specific.versions.extend(one.versions)
    return result


def _take(server: Running, path: Path, config: Any, deadline: float, say: Say) -> None:
    """Send `config` to the server. Raises EngineError."""
    try:
        tell(server, path, config, deadline - time.monotonic(), say)
    except DeadlineExceeded as error:
        raise EngineError(
            f"{_late(str(error))}. TensorFlow Serving waits forever for a model whose folder doesn't exist"
        ) from None
    except ServingError as error:
        raise EngineError(f"the {server.title} did not accept the new configuration: {error}") from None


def _not_yet(
    client: Client, served: Callable[[], tuple[Served, ...]], earlier: Earlier, last: tuple[Served, ...]
) -> str | None:
    return missing(client, served(), earlier, last)


def _go_back(server: Running, path: Path, client: Client, sent: list[Sent], say: Say) -> None:
    """Make a server that received these configurations, one after another, serve the first of them again.

    It goes back through the same steps, because labels need loaded versions here, too. Raises EngineError when the
    server doesn't go back; the file is the first one also then.
    """
    *back, (_, last) = sent
    if not back:
        return
    say(f"The {server.title}: going back to the versions before{_polls(server)} …")
    deadline = time.monotonic() + _BACK_SECONDS + len(back) * server.poll_seconds
    try:
        for config, served in reversed(back):
            earlier = _earlier(client, server, served, deadline)
            tell(server, path, config, deadline - time.monotonic(), say)
            wait_for(partial(_unlike, client, served, earlier, last), deadline, str)
            last = served
    except (EngineError, ServingError) as error:
        raise EngineError(
            f"Going back failed, too: {error}. {path} has the configuration before, so a restart serves it. "
            "`serve status` shows what the server serves now"
        ) from None
    finally:
        write_models_config(path, back[0][0])


def _unlike(client: Client, served: tuple[Served, ...], earlier: Earlier, last: tuple[Served, ...]) -> str | None:
    """Return what a server that served `last` doesn't serve yet. Raises EngineError when the server is gone.

    A version that is still loading doesn't count: it is unloaded when it is loaded, before clients get it.
    """
    try:
        return missing(client, served, earlier, last, reachable=True)
    except Unavailable as error:
        raise EngineError(str(error)) from None


def _polls(server: Running) -> str:
    """Return why a step takes long, for a message."""
    if server.poll_seconds > POLL_SECONDS:
        return f", the server reads models.config every {server.poll_seconds} s"
    return ""


def _kept_text(path: Path) -> str | None:
    """Return the text of a file; None if it can't be read."""
    try:
        return kept.read(path)
    except (FileNotFoundError, kept.KeptError):
        return None


def _late(state: str) -> str:
    return f"the server did not load the new configuration within --wait: {state}"
