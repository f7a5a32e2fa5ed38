"""Where a version is used: labels in models.yaml, and a server."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import click

from tfserving.foundation.command.errors import UNREACHABLE, CommandError

if TYPE_CHECKING:
    from tfserving.export.chain import Served, Use
    from tfserving.export.manifest import Manifest
    from tfserving.serving.models_yaml.fleet import Fleet

SECONDS = 5.0
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def use_of(manifest: Manifest | None, path: Path, fleet: Fleet | None, server: str | None) -> Use:
    """Return the labels of the version in `path` and, if a `server` is named, what it serves.

    Raises CommandError when the server can't be reached.
    """
    from tfserving.export.chain import Use

    if manifest is None:
        return Use()
    return Use(
        _labels(manifest, path, fleet) if fleet else None,
        None if server is None else tuple(_served(manifest, server)),
    )


def _labels(manifest: Manifest, path: Path, fleet: Fleet) -> tuple[str, ...] | None:
    """Return the labels of a version; None when it is not in the folder of the fleet."""
    model = fleet.models.get(manifest.model)
    if model is None or path.resolve() != (fleet.model_folder(manifest.model) / str(manifest.version)).resolve():
        return None
    return tuple(sorted(label for label, version in model.labels.items() if version == manifest.version))


def _served(manifest: Manifest, server: str) -> list[Served]:
    from tfserving.clients import ServingError, connect
    from tfserving.export.chain import Served
    from tfserving.foundation.labels import canary_name

    urls = server.split(",")
    url = urls[0]
    try:
        client = connect(url)
    except ValueError as error:
        raise click.UsageError(f"--server: {error}") from None
    found = []
    with client:
        # The canary of a model is served under a name of its own.
        for name in (manifest.model, canary_name(manifest.model)):
            try:
                statuses = client.status(name, timeout=SECONDS)
            except ServingError as error:
                if error.code == "NOT_FOUND":
                    continue
                raise CommandError(f"cannot list the versions on {url}: {error.hint or error}", UNREACHABLE) from None
            for one in statuses:
                if one.version == manifest.version:
                    digest = _digest(urls, name, one.version) if one.state == "AVAILABLE" else None
                    found.append(Served(url, name, one.state, digest))
    return found


def _digest(urls: Sequence[str], name: str, version: int) -> str | None:
    """Return the digest of the manifest that a server names over REST, as the embedded server does."""
    import http.client

    from tfserving.foundation.manifest import MANIFEST_HEADER

    url = next((urlsplit(one) for one in urls if one.startswith(("http://", "https://"))), None)
    if url is None:
        return None
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.netloc, timeout=SECONDS)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", f"/v1/models/{quote(name)}/versions/{version}/metadata")
        named = _DIGEST.fullmatch(connection.getresponse().headers.get(MANIFEST_HEADER, ""))
        return named[1] if named else None
    return None
