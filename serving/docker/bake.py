"""Baking a fleet into an image: `tfserving serve image`.

models.yaml ──► staged: models/NAME/VERSION, config/, serve-fleet, Dockerfile ──► the engine builds it ──► an image
"""

from __future__ import annotations

import contextlib
import io
import math
import shlex
import tarfile
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tfserving.serving.config import container_config, entry_point, in_container
from tfserving.serving.docker import daemon
from tfserving.serving.docker.container import PREFIX
from tfserving.serving.docker.image import find_or_pull
from tfserving.serving.docker.image_names import is_embedded
from tfserving.serving.engines import EngineError
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.proven import ProofError, prove
from tfserving.serving.served import loaded

# Seconds: within the 10 that `docker stop` gives a container.
LONGEST_DRAIN = 8
DOCKERFILE = Path(__file__).with_name("Dockerfile")


def bake(fleet: Fleet, names: tuple[str, ...], tag: str, say: Callable[[str], None]) -> str:
    """Builds the image `tag` with the models `names`, which were checked, inside; returns its id.

    It has the versions that are served now, each compared with its manifest first, and answers as `up` would. Its
    labels are those of https://github.com/opencontainers/image-spec/blob/main/annotations.md, and the digest of every
    version's manifest. Raises EngineError when a version isn't what its manifest says, or the build fails; a TLS key
    is never put into an image.
    """
    if fleet.server.tls:
        raise EngineError("server.tls: a private key doesn't belong into an image; mount /config where it runs instead")
    with contextlib.closing(daemon.connect()) as client, tempfile.TemporaryFile() as staged:
        base = find_or_pull(client, fleet.server.image_name, say)
        versions = [(name, version) for name in names for version in sorted({*loaded(fleet, name)})]
        try:
            digests = {
                f"{name}/{version}": prove(fleet.model_folder(name) / str(version)) for name, version in versions
            }
        except ProofError as problem:
            raise EngineError(str(problem)) from None
        labels = {
            "org.opencontainers.image.title": f"TensorFlow models: {', '.join(names)}",
            "org.opencontainers.image.created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "org.opencontainers.image.base.name": fleet.server.image_name,
            PREFIX: "fleet",
            **{f"{PREFIX}.manifest.{name}": f"sha256:{digest}" for name, digest in digests.items()},
        }
        if pulled := base.attrs.get("RepoDigests"):
            labels["org.opencontainers.image.base.digest"] = pulled[0].partition("@")[2]
        say(f"Staging {', '.join(digests)} …")
        _stage(fleet, names, staged)
        staged.seek(0)
        say(f"Building {tag} on {fleet.server.image_name} …")
        with daemon.told(f"{tag} can't be built"):
            built = client.api.build(
                fileobj=staged,
                custom_context=True,
                tag=tag,
                buildargs={"IMAGE": fleet.server.image_name},
                labels=labels,
                rm=True,
                forcerm=True,
                decode=True,
            )
            for event in built:
                if error := event.get("error"):
                    raise EngineError(f"{tag} can't be built: {error}")
            return str(client.images.get(tag).id)


def _stage(fleet: Fleet, names: tuple[str, ...], into: Any) -> None:
    """Writes the build's context, a tar, with nothing of this machine in it: no owners, modes or times."""
    config = container_config(fleet, names)
    # Nothing changes in an image, so there is nothing to poll for.
    flags = [flag for flag in config.flags if "_poll_wait_seconds" not in flag and "--drain_seconds" not in flag]
    flags += ["--file_system_poll_wait_seconds=0", "--enable_profiler=false"]
    serve = _serve_script(fleet, flags)
    texts = {"Dockerfile": DOCKERFILE.read_text(), "serve-fleet": serve}
    texts.update({f"config/{name}": text for name, text in config.files.items()})
    with tarfile.open(fileobj=into, mode="w") as tar:
        for name, text in texts.items():
            data = text.encode()
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if name == "serve-fleet" else 0o644
            tar.addfile(info, io.BytesIO(data))
        for name in names:
            for version in sorted({*loaded(fleet, name)}):
                folder = fleet.model_folder(name) / str(version)
                tar.add(folder, f"models/{name}/{version}", filter=_anonymous)


def _serve_script(fleet: Fleet, flags: list[str]) -> str:
    """The image's entry point: flags that a container is given follow those of the image."""
    embedded = is_embedded(fleet.server.image_name)
    program = [*entry_point(in_container(), embedded=embedded), *flags]
    drain = ' --drain_seconds="$DRAIN_SECONDS"' if embedded else ""
    return f"""\
#!/bin/sh
# `docker stop` sends SIGKILL after 10 s, unless it is given another --time.
export DRAIN_SECONDS="${{DRAIN_SECONDS:-{min(math.ceil(fleet.server.drain_seconds), LONGEST_DRAIN)}}}"
exec {" ".join(map(shlex.quote, program))}{drain} "$@"
"""


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    info.mode = 0o755 if info.isdir() else 0o644
    return info
