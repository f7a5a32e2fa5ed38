"""Changing what a server serves while it runs, by the file that it reads: new versions, labels, models.

    the configuration is checked ──► LOAD ──────────► LABEL ─────────► SETTLE
                                     what is new,     labels move to   what nobody wants any more
                                     labels as before loaded versions  is unloaded
                                       └──────────────┴────────────────┴──► failed: the file is as it was before

TensorFlow Serving assigns labels before it loads anything, so a label can only move to a version that is loaded
already: a change takes up to three writes, each waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfserving.clients import Client, connect
from tfserving.clients.errors import InvalidArgument, NotFound
from tfserving.foundation.files import written_whole
from tfserving.serving.config import MODELS_CONFIG, models_config, server_config
from tfserving.serving.config_messages import text
from tfserving.serving.engines import EngineError, address
from tfserving.serving.engines.readiness import states_of, unavailable, wait_for
from tfserving.serving.kept import writing
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import Running, config_folder, read_models_config, write_config


def apply(fleet: Fleet, server: Running, wait: float) -> None:
    """Has `server` serve its models as `fleet`, which was checked, says; returns when it does.

    Raises EngineError when a version fails to load or `wait` seconds pass; the server's file is as it was then.
    """
    places, names = server.places(fleet), server.names
    folder = config_folder(fleet, server.engine, server.grpc_port)
    path = folder / MODELS_CONFIG
    before = read_models_config(path)
    wanted = models_config(fleet, names, places)
    loading = _with_labels_of(before, wanted, fleet)
    labelling = type(wanted)()
    labelling.CopyFrom(loading)
    for new, now in zip(labelling.model_config_list.config, wanted.model_config_list.config, strict=True):
        new.ClearField("version_labels")
        new.version_labels.update(now.version_labels)
    url = f"http://{address(server.host, server.rest_port)}"
    deadline = time.monotonic() + wait
    try:
        with connect(url, timeout=5) as client:
            if labelling != loading:
                _write(path, loading)
                _wait(lambda: unavailable(client, fleet, names), deadline)
                _write(path, labelling)
                _wait(lambda: _labelling(client, loading, wanted), deadline)
            write_config(folder, server_config(fleet, names, places, embedded=False).files)
            _wait(lambda: unavailable(client, fleet, names) or _leaving(client, before, fleet, names), deadline)
    except BaseException as error:
        _write(path, before)
        if isinstance(error, EngineError):
            raise EngineError(f"{error}; the server serves what it did before") from None
        raise


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


def _write(path: Path, config: Any) -> None:
    with writing(path), written_whole(path) as file:
        file.write(text(config).encode())


def _wait(missing: Callable[[], str | None], deadline: float) -> None:
    """Waits until nothing is missing. Raises EngineError with what is, when time runs out."""
    wait_for(
        missing,
        deadline,
        lambda said: f"the server did not take the new configuration in time (--wait says how long): {said}",
    )
