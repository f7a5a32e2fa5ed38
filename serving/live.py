"""Changing what a server serves while it runs: new versions, labels, models.

    the configuration is checked ──► LOAD ──────────► LABEL ─────────► SETTLE
                                     what is new,     labels move to   what nobody wants any more
                                     labels as before loaded versions  is unloaded
                                       └──────────────┴────────────────┴──► failed: file and server are as before

TensorFlow Serving assigns labels before it loads anything, so a label can only move to a version that is loaded
already: a change takes up to three steps, each waited for. Each step writes models.config, with which a restart begins.
TensorFlow Serving then gets the step by HandleReloadConfigRequest, which waits for new models only, and not for new
versions. With TLS, and in the embedded server, where that call is off, the file is all: these servers poll it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tfserving.clients import Client, connect
from tfserving.clients.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServingError,
    Unavailable,
)
from tfserving.serving import kept
from tfserving.serving.config import MODELS_CONFIG, POLL_SECONDS, health_check, models_config
from tfserving.serving.engines import EngineError
from tfserving.serving.engines.readiness import states_of, unavailable, wait_for
from tfserving.serving.health import HEALTH
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import (
    Running,
    config_folder,
    read_models_config,
    write_file,
    write_models_config,
)

Say = Callable[[str], None]
# A server that takes a call takes one that restores what it served within this time.
_BACK_SECONDS = 30.0
_SHORTEST_CALL = 1.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 2.0


@dataclass(frozen=True)
class Step:
    """A part of a change: what it does, the configuration that the server gets, and what is not yet as it should be."""

    what: str
    config: Any
    missing: Callable[[], str | None]


def apply(fleet: Fleet, server: Running, wait: float, say: Say) -> None:
    """Has `server` serve its models as `fleet`, which was checked, says; returns when it does. `say` gets the progress.

    Raises EngineError when a version fails to load or `wait` seconds pass. The file and the server are as they were
    then; where the server can't be, the error says so.
    """
    places, names = server.places(fleet), server.names
    folder = config_folder(fleet, server.engine, server.grpc_port)
    path = folder / MODELS_CONFIG
    before = read_models_config(path)
    old_health = _kept_text(folder / HEALTH)
    wanted = models_config(fleet, names, places)
    new_health = health_check(fleet, names, places)
    loading, labelling = _steps(before, wanted, fleet)
    deadline = time.monotonic() + wait
    with connect(server.url, timeout=5) as client:
        settle = Step(
            "serving what models.yaml names, and nothing else",
            wanted,
            lambda: unavailable(client, fleet, names) or _leaving(client, before, fleet, names),
        )
        steps = [settle]
        if labelling != loading:
            load = Step("loading versions", loading, lambda: unavailable(client, fleet, names))
            label = Step("moving labels", labelling, lambda: _labelling(client, loading, wanted))
            steps = [load, label, settle]
        taken: list[Any] = [before]
        try:
            for number, step in enumerate(steps, 1):
                say(f"The {server.title}: {step.what} (step {number} of {len(steps)}{_polls(server)}) …")
                taken.append(step.config)
                if step is settle:
                    write_file(folder / HEALTH, new_health)
                _take(server, path, step.config, deadline, say)
                _wait(step.missing, deadline)
        except BaseException as error:
            if old_health is not None:
                write_file(folder / HEALTH, old_health)
            try:
                _go_back(server, path, client, taken, say)
            except EngineError as failure:
                raise EngineError(f"{str(error) or 'interrupted'}; {failure}") from None
            if isinstance(error, EngineError):
                raise EngineError(f"{error}; the server serves what it did before") from None
            raise


def tell(server: Running, path: Path, config: Any, seconds: float, say: Say) -> None:
    """Writes `config` to `path`, and sends it to a server that takes changes by a call, within `seconds`.

    Returns before the server serves it: a server that polls has not read it yet. A server that is busy gets it again,
    slower, which `say` reports. Raises ServingError when the server refuses it or the time is over.
    """
    write_models_config(path, config)
    if not server.poll_seconds:
        send(server, config, seconds, say)


def send(server: Running, config: Any, seconds: float, say: Say) -> None:
    """Sends `config` to a server that takes changes by a call; it begins as before when it is started again.

    See `tell`.
    """
    deadline, pause = time.monotonic() + seconds, _SHORTEST_PAUSE
    with connect(server.url) as client:
        while True:
            try:
                client.reload_config(config, timeout=max(deadline - time.monotonic(), _SHORTEST_CALL))
            except ResourceExhausted as error:
                # Refused before it was read.
                if time.monotonic() + pause > deadline:
                    raise
                say(f"The {server.title} is busy ({error.text}); the change is sent again in {pause:g} s …")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return


def _steps(before: Any, wanted: Any, fleet: Fleet) -> tuple[Any, Any]:
    """What a server that has `before` gets until it can get `wanted`: all versions, and then the labels, too."""
    loading = _with_labels_of(before, wanted, fleet)
    labelling = type(wanted)()
    labelling.CopyFrom(loading)
    for new, now in zip(labelling.model_config_list.config, wanted.model_config_list.config, strict=True):
        new.ClearField("version_labels")
        new.version_labels.update(now.version_labels)
    return loading, labelling


def _with_labels_of(before: Any, wanted: Any, fleet: Fleet) -> Any:
    """`wanted` with the labels of `before`, and the versions that these need beside those that are wanted."""
    labels = {model.name: dict(model.version_labels) for model in before.model_config_list.config}
    result = type(wanted)()
    result.CopyFrom(wanted)
    for model in result.model_config_list.config:
        versions = fleet.versions(model.name)
        old = {label: version for label, version in labels.get(model.name, {}).items() if version in versions}
        if old == dict(model.version_labels):
            continue
        model.ClearField("version_labels")
        model.version_labels.update(old)
        model.ClearField("model_version_policy")
        model.model_version_policy.specific.versions.extend(sorted({*fleet.kept(model.name), *old.values()}))
    return result


def _labelling(client: Client, before: Any, wanted: Any) -> str | None:
    """Which label isn't yet what it should be."""
    old = {model.name: dict(model.version_labels) for model in before.model_config_list.config}
    for model in wanted.model_config_list.config:
        for label in {*old.get(model.name, {}), *model.version_labels}:
            target = model.version_labels.get(label)
            found = label_version(client, model.name, label)
            if found != target:
                return f"model {model.name!r}: label {label!r} is at {found or 'no version'}, not at {target}"
    return None


def _leaving(client: Client, before: Any, fleet: Fleet, names: tuple[str, ...]) -> str | None:
    """Which version is still served that nobody wants any more."""
    models = {*names, *(model.name for model in before.model_config_list.config)}
    for name in sorted(models):
        kept = fleet.kept(name) if name in names else []
        for version, status in states_of(client, name).items():
            if version not in kept and status.state != "END":
                return f"model {name!r}: {status}, which is to be unloaded"
    return None


def label_version(client: Client, model: str, label: str) -> int | None:
    """The version that a label means on a server; None when it has no such label."""
    try:
        return client.metadata(model, label=label).version
    except (InvalidArgument, NotFound):
        return None


def _take(server: Running, path: Path, config: Any, deadline: float, say: Say) -> None:
    """Has the server get `config`. Raises EngineError."""
    try:
        tell(server, path, config, deadline - time.monotonic(), say)
    except DeadlineExceeded as error:
        raise EngineError(
            f"{_late(str(error))}; it waits without end for a model whose folder it doesn't find"
        ) from None
    except ServingError as error:
        raise EngineError(f"the {server.title} did not take the new configuration: {error}") from None


def _go_back(server: Running, path: Path, client: Client, taken: list[Any], say: Say) -> None:
    """Has a server that got the configurations `taken`, one after another, serve the first of them again.

    It goes the same way back, as labels need loaded versions here, too. Raises EngineError when the server doesn't
    follow; the file is the first one then as well.
    """
    *back, last = taken
    if not back:
        return
    say(f"The {server.title}: back to what it served before{_polls(server)} …")
    deadline = time.monotonic() + _BACK_SECONDS + len(back) * server.poll_seconds
    try:
        for config in reversed(back):
            tell(server, path, config, deadline - time.monotonic(), say)
            wait_for(partial(_unlike, client, last, config), deadline, str)
            last = config
    except (EngineError, ServingError) as error:
        raise EngineError(
            f"going back failed, too: {error}; {path} has what the server served before, which it serves again when "
            "it is started again, and `tfserving serve status` shows what it serves now"
        ) from None
    finally:
        write_models_config(path, back[0])


def _unlike(client: Client, last: Any, config: Any) -> str | None:
    """What a server that had `last` doesn't serve yet of the versions and the labels that `config` names.

    Raises EngineError when there is no server any more.
    """
    try:
        for model in config.model_config_list.config:
            states = states_of(client, model.name)
            for version in model.model_version_policy.specific.versions:
                status = states.get(version)
                if status is None or status.state != "AVAILABLE":
                    return f"model {model.name!r}: {status or f'version {version} was not known'}"
        return _labelling(client, last, config)
    except Unavailable as error:
        raise EngineError(str(error)) from None


def _polls(server: Running) -> str:
    """What makes a step take long, for a message."""
    if server.poll_seconds > POLL_SECONDS:
        return f", the server reads models.config every {server.poll_seconds} s"
    return ""


def _kept_text(path: Path) -> str | None:
    """The text of a file; None when it isn't there, or is none."""
    try:
        return kept.read(path)
    except (FileNotFoundError, kept.KeptError):
        return None


def _wait(missing: Callable[[], str | None], deadline: float) -> None:
    """Waits until nothing is missing. Raises EngineError with what is, when time runs out."""
    wait_for(missing, deadline, _late)


def _late(said: str) -> str:
    return f"the server did not take the new configuration in time (--wait says how long): {said}"
