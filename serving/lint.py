"""Errors in a fleet's configuration, found before anything starts: `tfserving config --check`."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tfserving.foundation.command.hints import typed
from tfserving.foundation.files import read_bounded
from tfserving.foundation.golden import MANIFEST, WARMUP
from tfserving.foundation.manifest import ManifestError, read_manifest_file
from tfserving.serving import threads
from tfserving.serving.batching_lint import (
    BATCHING_PARAMETERS,
    OWN_BATCHING,
    own_problems,
    parameter_problems,
    warmup_problems,
)
from tfserving.serving.config import in_container, models_config
from tfserving.serving.devices import fleet_device
from tfserving.serving.docker.image_names import is_embedded, version_in, with_gpus
from tfserving.serving.embedded.release import minor
from tfserving.serving.gpu_lint import unused_gpus
from tfserving.serving.models_yaml.fleet import CANARY, STABLE, Fleet, canary_name
from tfserving.serving.models_yaml.server import TENSORFLOW_SERVING, ServerSettings, TlsFiles
from tfserving.serving.problem import Problem as Problem  # noqa: PLC0414 - part of these functions
from tfserving.serving.served import loaded

# Memory of the embedded server's container with a small model, idle. TensorFlow Serving's uses less.
SERVER_BYTES = 350 << 20
# `verify` sends 32 requests at a time. TensorFlow Serving 2.20 refused some of them with 8 and 16 threads, and none
# with 36 and 64.
FEWEST_THREADS = 64
_LARGEST_PEM = 1 << 20


def problems(
    fleet: Fleet,
    names: tuple[str, ...],
    *,
    container: bool = True,
    engine: str | None = None,
    gpu: bool | None = None,
    before_export: bool = False,
) -> list[Problem]:
    """Return all problems of serving the models `names`; with `container`, also those of a container.

    `engine` is the engine that serves them, if it is known. `gpu` is whether the server has one; None: by models.yaml,
    see `fleet_device`. With `before_export`, a model without versions is a warning: a server's start exports it.
    """
    if gpu is None:
        gpu = fleet_device(fleet, "docker" if container else engine) in ("gpu", "gpu-tf32")
    embedded = engine == "embedded" or (container and is_embedded(fleet.server.image_name))
    found = settings_problems(fleet, gpu=gpu, embedded=embedded)
    for name in names:
        found += _model(fleet, name, before_export, cold=gpu and not embedded)
    if fleet.server.batching and not embedded:
        # Without a container and a known engine, the embedded server may serve them.
        found += _unbatched(fleet, names, warning=not container and engine is None)
    found += models_config_problems(models_config(fleet, names, in_container()))
    found += unused_gpus(fleet.server, container=container, embedded=embedded)
    if container:
        found += [*_memory(fleet, names), *_pids(fleet, names), *_image(fleet, names), *_mounted(fleet, names)]
    return found


def settings_problems(fleet: Fleet, *, gpu: bool | None = None, embedded: bool = False) -> list[Problem]:
    """Return the problems of `server:`, which don't depend on versions. `gpu`: see `problems`."""
    server = fleet.server
    found = list(_threads(server))
    if server.batching:
        gpu = bool(server.gpus) if gpu is None else gpu
        found += parameter_problems("server.batching", server.batching, gpu=gpu, embedded=embedded)
    if server.tls:
        found += tls_problems(server.tls, "server.tls")
    return found


def models_config_problems(config: Any) -> Iterator[Problem]:
    """Yield the problems of any ModelServerConfig: duplicate names, and paths that aren't absolute."""
    seen: set[str] = set()
    for model in config.model_config_list.config:
        where = f"models.config: {model.name}"
        if model.name in seen:
            yield Problem(where, "this name appears twice")
        seen.add(model.name)
        if not model.base_path.startswith("/"):
            yield Problem(where, f"got base_path {model.base_path!r}, expected an absolute path")


def _model(fleet: Fleet, name: str, before_export: bool, *, cold: bool) -> Iterator[Problem]:
    """Yield the problems of a model's versions and labels; with `cold`, also batches that no warm-up request fills."""
    model, folder, where = fleet.models[name], fleet.model_folder(name), f"models.{name}"
    versions, kept, stable = fleet.versions(name), fleet.kept(name), model.labels.get(STABLE)
    listed = ", ".join(map(str, versions))
    if not versions:
        command = typed(f"export build {name}", fleet=fleet.file)
        text = f"model {name!r} has no version in {folder}. Export one with `{command}`"
        yield Problem(where, text, warning=before_export)
        return
    missing = [v for v in (model.versions if isinstance(model.versions, tuple) else ()) if v not in versions]
    if missing:
        yield Problem(f"{where}.versions", f"{missing} {_are(missing)} not in {folder}. It contains {listed}")
    yield from _stable(fleet, name)
    for label, version in model.labels.items():
        if version not in versions:
            yield Problem(
                f"{where}.labels",
                f"model {name!r}: label {label!r} is for version {version}, which is not in {folder}. "
                f"It contains {listed}",
            )
        elif version not in kept and not (stable and (label == CANARY or version > stable)):
            yield Problem(
                f"{where}.labels",
                f"label {label!r} is for version {version}, which is not served, because of "
                f"`versions: {_yaml(model.versions)}`. Served: {', '.join(map(str, kept))}",
            )
    for version in sorted({*loaded(fleet, name)}):
        warmup = folder / str(version) / WARMUP
        if not warmup.is_file():
            text = f"version {version} has no warm-up requests, so its first requests are slow. Exported versions have"
            yield Problem(where, f"{text} some", warning=True)
        elif batching := fleet.server.batching:
            path = folder / str(version)
            check = own_problems if fleet.server.flags.get(OWN_BATCHING) else warmup_problems
            yield from check(where, version, path, batching, _without_batch(path), gpu=cold)


def _unbatched(fleet: Fleet, names: tuple[str, ...], *, warning: bool) -> Iterator[Problem]:
    """Yield versions with signatures that have no batch dimension. TensorFlow Serving with batching doesn't load them.

    It batches every signature. With --enable_per_model_batching_parameters it batches versions with a parameters file:
    https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/servables/tensorflow/bundle_factory_util.cc
    """
    chosen = bool(fleet.server.flags.get(OWN_BATCHING))
    for name in names:
        for version in sorted({*loaded(fleet, name)}):
            folder = fleet.model_folder(name) / str(version)
            signatures = ", ".join(map(repr, sorted(_without_batch(folder))))
            if not signatures or (chosen and not (folder / BATCHING_PARAMETERS).is_file()):
                continue
            text = f"version {version} has no batch dimension (signature {signatures}), so TensorFlow Serving with"
            text += " server.batching does not load it. "
            if chosen:
                text += f"Remove {BATCHING_PARAMETERS} from the version"
            else:
                text += "Serve it from a fleet without server.batching, or on the embedded server"
            yield Problem(f"models.{name}", text, warning=warning)


def _without_batch(version_folder: Path) -> frozenset[str]:
    try:
        return read_manifest_file(version_folder / MANIFEST).unbatched()
    except ManifestError:
        return frozenset()


def _stable(fleet: Fleet, name: str) -> Iterator[Problem]:
    """Yield what would make requests without a label get another version than `stable`."""
    model, where = fleet.models[name], f"models.{name}"
    stable, canary = model.labels.get(STABLE), canary_name(name)
    if stable is None:
        return
    if canary in fleet.models:
        text = f"this is the name of the canary of {name!r}, which has a label {STABLE!r}. Rename the model"
        yield Problem(f"models.{canary}", text)
    why = f"newer than {STABLE!r}, version {stable}. Requests without a label get the newest version"
    for label, version in model.labels.items():
        if label != CANARY and version > stable:
            text = f"label {label!r} is for version {version}, which is {why}, so only {CANARY!r} may be newer"
            yield Problem(f"{where}.labels", text)
    if isinstance(model.versions, tuple) and (newer := [version for version in model.versions if version > stable]):
        remove = f"Remove {'it' if len(newer) == 1 else 'them'}, or move {STABLE!r}"
        yield Problem(f"{where}.versions", f"{newer} {_are(newer)} {why}. {remove}")


def _threads(server: ServerSettings) -> Iterator[Problem]:
    names = [f"tensorflow_{name}_parallelism" for name in ("session", "intra_op", "inter_op")]
    if all(int(server.flags.get(name, 0)) > 0 for name in names):
        yield Problem(
            "server.flags", f"{', '.join(names)} are all set. Remove one, since the first is the default of the others"
        )
    if server.grpc_max_threads < FEWEST_THREADS:
        text = f"TensorFlow Serving refuses more than {server.grpc_max_threads} gRPC calls at a time, with"
        text += f" RESOURCE_EXHAUSTED, and does not count them on its metrics page. Set at least {FEWEST_THREADS}"
        yield Problem("server.grpc_max_threads", text, warning=True)
    if server.rest_api_num_threads < FEWEST_THREADS:
        text = f"{server.rest_api_num_threads} REST predictions at a time make metadata and metrics wait"
        yield Problem("server.rest_api_num_threads", f"{text}. Set at least {FEWEST_THREADS}", warning=True)


def tls_problems(tls: TlsFiles, where: str) -> Iterator[Problem]:
    """Yield the problems of the certificate and key under the key `where` of models.yaml."""
    unreadable = False
    for key, path in (("certificate", tls.certificate), ("key", tls.key), ("client_ca", tls.client_ca)):
        if path is None:
            continue
        try:
            read_bounded(path, _LARGEST_PEM)
        except (OSError, ValueError) as error:
            unreadable = True
            yield Problem(f"{where}.{key}", f"{path}: {getattr(error, 'strerror', None) or error}")
    if tls.verify_clients and not tls.client_ca:
        yield Problem(where, "verify_clients needs client_ca, the certificate authorities of clients")
    if unreadable:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        yield Problem(where, f"{tls.certificate} and {tls.key} do not match: {_ssl_text(error)}")
    try:
        if tls.client_ca:
            context.load_verify_locations(tls.client_ca)
    except (ssl.SSLError, OSError, ValueError) as error:
        yield Problem(f"{where}.client_ca", f"{tls.client_ca} contains no certificates: {_ssl_text(error)}")


def _memory(fleet: Fleet, names: tuple[str, ...]) -> Iterator[Problem]:
    """Yield a problem if memory is too small for all versions and the new one during a change.

    A rollout loads the new version under two names.
    """
    limit = fleet.server.memory
    if limit is None:
        return
    models = {}
    for name in names:
        sizes = [_size(fleet.model_folder(name) / str(version)) for version in loaded(fleet, name)]
        labels = fleet.models[name].labels
        more = 2 if STABLE in labels and CANARY not in labels else 1
        models[name] = sum(sizes) + more * max(sizes, default=0)
    needed = SERVER_BYTES + sum(models.values())
    if needed > limit:
        largest = max(models, key=lambda name: models[name])
        yield Problem(
            "server.memory",
            f"got {_mib(limit)}, expected at least {_mib(needed)}: the server needs about {_mib(SERVER_BYTES)}, and "
            f"its models {_mib(sum(models.values()))}, with a new version beside the old one. The largest model is "
            f"{largest!r} with {_mib(models[largest])}",
        )


def _pids(fleet: Fleet, names: tuple[str, ...]) -> Iterator[Problem]:
    limit, needed = fleet.server.pids, threads.needed(fleet, names)
    if limit is not None and limit < needed:
        yield Problem(
            "server.pids",
            f"got {limit}, expected at least {needed}: the server creates up to {needed} threads with these models "
            f"({threads.LOADING} for each version while it loads), and aborts if it can't. Remove server.pids to use "
            "the default",
        )


def _image(fleet: Fleet, names: tuple[str, ...]) -> Iterator[Problem]:
    """Yield problems of the image's release, if its tag contains it."""
    image = fleet.server.image_name
    tagged = version_in(image)
    if fleet.server.gpus and (better := with_gpus(image)):
        yield Problem("server.image", f"{image} has no GPU support, which server.gpus needs. Use {better}")
    if tagged:
        yield from version_problems(image, tagged, fleet, names)


def _mounted(fleet: Fleet, names: tuple[str, ...]) -> Iterator[Problem]:
    """Yield what a container can't find or read in the mounted folder of the models. Copies can be found and read."""
    for name in () if fleet.trust else names:
        for version in loaded(fleet, name):
            folder = fleet.model_folder(name) / str(version)
            if not folder.resolve().is_relative_to(fleet.folder.resolve()):
                text = f"{folder} is a link to {folder.resolve()}, outside of {fleet.folder}, which a container mounts"
                yield Problem(f"models.{name}", text)
            if os.getuid() == 0 and (closed := [path for path in _tree(folder) if not _open(path)]):
                text = f"the container's user, who isn't root, can't read {closed[0]}. Run `chmod -R a+rX {folder}`"
                yield Problem(f"models.{name}", text)


def version_problems(image: str, version: str, fleet: Fleet, names: Iterable[str]) -> Iterator[Problem]:
    """Yield warnings about an image with TensorFlow Serving `version`, such as `2.20`."""
    if minor(version) != minor(TENSORFLOW_SERVING):
        text = f"{image} is TensorFlow Serving {version}, but this toolkit uses the messages of {TENSORFLOW_SERVING}"
        yield Problem("server.image", text, warning=True)
    for name in names:
        for number in sorted({*fleet.kept(name)[-1:], *loaded(fleet, name)[-1:]}):
            exported = _exported_with(fleet.model_folder(name) / str(number))
            if exported and minor(exported) > minor(version):
                text = (
                    f"version {number} was exported with TensorFlow {exported}, which is newer than {image}. The image"
                )
                yield Problem(f"models.{name}", f"{text} may lack operations", warning=True)


def _exported_with(version_folder: Path) -> str | None:
    try:
        return read_manifest_file(version_folder / MANIFEST).tensorflow()
    except ManifestError:
        return None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tree(folder: Path) -> Iterator[Path]:
    yield from (folder.parent, folder)
    yield from sorted(folder.rglob("*"))


def _open(path: Path) -> bool:
    needed = stat.S_IROTH | stat.S_IXOTH if path.is_dir() else stat.S_IROTH
    return path.stat().st_mode & needed == needed


def _mib(size: int) -> str:
    return f"{-(-size >> 20)} MiB"


def _are(things: list[int]) -> str:
    return "is" if len(things) == 1 else "are"


def _yaml(versions: object) -> str:
    return str(list(versions) if isinstance(versions, tuple) else versions)


def _ssl_text(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()
