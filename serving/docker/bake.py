"""Building an image that contains models: `tfserving image`.

models/NAME/VERSION ──copy──► accept ──┐
models.yaml ──► context: config/, serve-fleet, Dockerfile, the copies ──► build by the engine ──► image
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import shlex
import tarfile
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tfserving.foundation.command.progress import Progress
from tfserving.foundation.temporary import temporary_folder
from tfserving.foundation.trust import Accepted
from tfserving.foundation.version_files import VersionError
from tfserving.serving.config import container_config, entry_point, in_container
from tfserving.serving.docker import daemon
from tfserving.serving.docker.container import PREFIX
from tfserving.serving.docker.image import find_or_pull
from tfserving.serving.docker.image_names import is_embedded
from tfserving.serving.engines import EngineError
from tfserving.serving.gpu_environment import gpu_environment
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import fleet_id
from tfserving.serving.served import loaded
from tfserving.serving.version_copies import copy_accepted

# In seconds; `docker stop` sends SIGKILL after 10.
LONGEST_DRAIN = 8
DOCKERFILE = Path(__file__).with_name("Dockerfile")


def bake(fleet: Fleet, names: tuple[str, ...], tag: str | None, progress: Progress) -> tuple[str, str]:
    """Build an image with the models `names`, which were checked; return its name with the tag, and its id.

    Without `tag`, the tag is a hash of the content, so no two images have the same name.

    It contains copies of the versions that `serve up` would serve, each accepted before. Nobody else can write to them.
    Its labels are those of https://github.com/opencontainers/image-spec/blob/main/annotations.md, the digest of every
    version's manifest, and, with `trust`, who signed it. Raises EngineError when a version isn't accepted, or the build
    fails. An image never contains a key.
    """
    if fleet.server.tls:
        raise EngineError("server.tls: an image must not contain a private key. Mount /config where it runs")
    with contextlib.closing(daemon.connect()) as client, tempfile.TemporaryFile() as staged:
        base = find_or_pull(client, fleet.server.image_name, progress, by_digest=fleet.trust is not None)
        with temporary_folder("copies of the versions", "image-") as folder:
            copied, versions = _copied(fleet, names, folder, progress)
            _stage(copied, names, staged)
        digests = {name: accepted.digest for name, accepted in versions.items()}
        tag = tag or _tag(fleet, names, digests)
        labels = {
            "org.opencontainers.image.title": f"TensorFlow models: {', '.join(names)}",
            "org.opencontainers.image.created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "org.opencontainers.image.base.name": fleet.server.image_name,
            PREFIX: "fleet",
            **{f"{PREFIX}.manifest.{name}": f"sha256:{digest}" for name, digest in digests.items()},
            **{f"{PREFIX}.signer.{name}": one.signer for name, one in versions.items() if one.signer},
        }
        if pulled := base.attrs.get("RepoDigests"):
            labels["org.opencontainers.image.base.digest"] = pulled[0].partition("@")[2]
        staged.seek(0)
        progress.line(f"Building {tag} on {fleet.server.image_name} …")
        progress.update(f"Building {tag}")
        with daemon.explained(f"{tag} can't be built"):
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
            return tag, str(client.images.get(tag).id)


def _copied(
    fleet: Fleet, names: tuple[str, ...], folder: Path, progress: Progress
) -> tuple[Fleet, dict[str, Accepted]]:
    """Copy the versions that servers load to `folder`; return the fleet of copies, and each by MODEL/VERSION.

    Raises EngineError when one isn't accepted.
    """
    versions = {name: sorted({*loaded(fleet, name)}) for name in names}
    titles = {f"{name}/{number}": (name, number) for name, numbers in versions.items() for number in numbers}
    progress.line(f"Copying {', '.join(titles)} …")
    accepted = {}
    try:
        for title, (name, number) in titles.items():
            source = fleet.model_folder(name) / str(number)
            accepted[title] = copy_accepted(source, folder / title, name, number, fleet.trusted, progress.update)
    except VersionError as problem:
        raise EngineError(str(problem)) from None
    return fleet.with_copies(folder, versions), accepted


def _tag(fleet: Fleet, names: tuple[str, ...], digests: Mapping[str, str]) -> str:
    """Return a name for the image of a fleet with these versions, its settings, and its base."""
    config = container_config(fleet, names)
    content = json.dumps(
        [sorted(digests.items()), fleet.server.image_name, config.files, config.flags, _environment(fleet)]
    )
    return f"serving-{fleet_id(fleet).rpartition('-')[0]}:{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _stage(fleet: Fleet, names: tuple[str, ...], into: Any) -> None:
    """Write the build context, a tar without this machine's owners, modes and times."""
    config = container_config(fleet, names)
    # Nothing in an image changes, so the server doesn't poll.
    flags = [flag for flag in config.flags if "_poll_wait_seconds" not in flag and "--drain_seconds" not in flag]
    flags += ["--file_system_poll_wait_seconds=0", "--enable_profiler=false"]
    serve = serve_script(fleet, flags)
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


def _environment(fleet: Fleet) -> dict[str, str]:
    return gpu_environment(fleet.server, embedded=is_embedded(fleet.server.image_name))


def serve_script(fleet: Fleet, flags: list[str]) -> str:
    """Return the image's entry point; arguments of `docker run` follow the image's own flags."""
    embedded = is_embedded(fleet.server.image_name)
    program = [*entry_point(in_container(), embedded=embedded), *flags]
    drain = ' --drain_seconds="$DRAIN_SECONDS"' if embedded else ""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in _environment(fleet).items())
    return f"""\
#!/bin/sh
# `docker stop` sends SIGKILL after 10 s, unless it is given another --time.
export DRAIN_SECONDS="${{DRAIN_SECONDS:-{min(math.ceil(fleet.server.drain_seconds), LONGEST_DRAIN)}}}"
{exports}exec {" ".join(map(shlex.quote, program))}{drain} "$@"
"""


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    info.mode = 0o755 if info.isdir() else 0o644
    return info
