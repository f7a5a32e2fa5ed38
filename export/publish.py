"""Copies a version to a folder or an object store, in such a way that servers never find half of it.

    accept the version ──► folder: hidden sibling ──► rename
                       └─► object store: own upload ──► manifest, if there is none ──► other files ──► saved_model.pb

A server finds a version by its saved_model.pb. However many publishers there are, and whenever they end, a version
consists of the files of one of them: see `publish_folder` and `publish_objects`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserving.export.errors import ExportError
from tfserving.export.objects import Objects, can_create
from tfserving.export.outgoing import PublishError, outgoing
from tfserving.export.publish_folder import publish_to_folder
from tfserving.export.publish_objects import ObjectPublisher
from tfserving.export.staging import check_writable
from tfserving.foundation.store import StoreError, file_system, is_disk
from tfserving.foundation.trust import Trust

__all__ = ["PublishError", "Published", "check_destination", "publish"]


@dataclass(frozen=True)
class Published:
    """A version at its destination, with the number of files and bytes that were sent now, and the time that it took.

    `created` is false when the version was there before, or another publisher of the same one was first. `signer` is
    None without `trust`.
    """

    url: str
    digest: str
    signer: str | None
    created: bool
    files: int
    files_sent: int
    sent_bytes: int
    duration_seconds: float

    def __str__(self) -> str:
        if not self.created:
            return f"{self.url} exists already, and all {self.files} files are the same"
        sent = f"{self.files_sent} of {self.files} files sent, {self.sent_bytes} bytes"
        return f"{self.url}: {sent}, in {self.duration_seconds:.1f} s"


def check_destination(destination: str, model: str) -> None:
    """Raise PublishError when versions of `model` can't be published there, as far as this machine shows it.

    `destination` is a folder or a URL that fsspec supports.
    """
    if not destination:
        raise PublishError("the destination is empty. Name a folder or a URL, such as s3://bucket/models")
    system, root = _file_system(destination)
    if is_disk(system):
        check_writable(Path(root) / model)


def publish(
    version_folder: Path,
    model: str,
    version: int,
    destination: str,
    now: Callable[[str], None] = lambda _: None,
    trust: Trust | None = None,
) -> Published:
    """Copy the version in `version_folder` to DESTINATION/MODEL/VERSION, a folder or a URL that fsspec supports.

    `now` is called with each step. A version that exists and is the same is left as it is; its signature is replaced by
    that of `version_folder`, if that has one. Raises PublishError when the version is not intact or not signed as
    `trust` requires, when another one exists, or when the destination can't be written.
    """
    start = time.monotonic()
    now("comparing the files with the manifest")
    own = outgoing(version_folder, model, version, trust)
    system, root = _file_system(destination)
    url = f"{destination.rstrip('/')}/{model}/{version}"
    now(f"looking for {url}")
    if is_disk(system):
        sent = publish_to_folder(own, Path(root) / model / str(version), now)
        created = bool(sent)
    else:
        publisher = ObjectPublisher(own, Objects(system), root.rstrip("/"), url, now)
        with _as_sentence(url, root):
            created = publisher.run()
        sent = publisher.sent
    return Published(
        url,
        own.digest,
        own.signer,
        created,
        own.count,
        len(sent),
        sum(sent.values()),
        round(time.monotonic() - start, 3),
    )


def _file_system(destination: str) -> tuple[Any, str]:
    try:
        system, root = file_system(destination)
    except StoreError as error:
        raise PublishError(str(error)) from None
    except Exception as error:
        # Of its package, for example without credentials.
        raise PublishError(f"{destination} can't be written: {_reason(error)}") from None
    if not is_disk(system) and not can_create(system):
        raise PublishError(
            f"{destination}: versions are published to a folder, s3://, gs:// and abfs://, which can write an object "
            "on the condition that there is none. Two publishers of one number could mix their files elsewhere."
        )
    return system, root


@contextlib.contextmanager
def _as_sentence(url: str, root: str) -> Iterator[None]:
    """Turn any error of a store or its library into one line with the place."""
    try:
        yield
    except ExportError:
        raise
    except FileNotFoundError:
        bucket = root.strip("/").partition("/")[0]
        raise PublishError(f"{url}: the bucket {bucket!r} does not exist. Create it first.") from None
    except Exception as error:
        raise PublishError(f"{url} can't be written: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
