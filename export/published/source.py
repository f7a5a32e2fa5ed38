"""A place with published versions, and what is known of one before its weights are fetched.

Nothing in such a place is trusted: each text, number and size is bounded, and a fault concerns one version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tfserving.foundation.manifest import Manifest
from tfserving.foundation.store import Limits
from tfserving.serving.models_yaml.patterns import is_mlflow_uri

# A version's number, or the digest of its image.
Wanted = int | str
# Called with the number of bytes that arrived.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Numbers:
    """The versions of a model, newest first; `more` says that there are others, which weren't read.

    `unfinished` counts uploads that publishers began.
    """

    numbers: tuple[int, ...]
    more: bool = False
    unfinished: int = 0


@dataclass(frozen=True)
class Contents:
    """What a published version says of itself; no weights were read.

    `data` is its manifest's text. `size` has the bytes of all files that the manifest lists. `problems` are differences
    between the sizes in the manifest and those in the store. `reference` names the version by digest, in a registry.
    """

    data: bytes
    manifest: Manifest
    signature: bytes | None
    size: int
    is_complete: bool = True
    problems: tuple[str, ...] = ()
    reference: str | None = None


class Source(Protocol):
    """A place with versions of several models. All methods raise StoreError."""

    url: str

    def models(self) -> list[str] | None:
        """Return the names of the models; None when the place can't list them."""

    def versions(self, model: str) -> Numbers:
        """Return the versions of a model; none when the place has none."""

    def contents(self, model: str, version: Wanted, limits: Limits) -> Contents:
        """Return what a version says of itself."""

    def fetch(self, model: str, version: Wanted, contents: Contents, into: Path, progress: Progress, /) -> None:
        """Write the files of a version to a folder, each with its size and SHA-256 in the manifest.

        Raises OSError when one can't be written.
        """


@contextmanager
def opened(url: str, plain_http: bool = False) -> Iterator[Source]:
    """Open the place that a folder or a URL names. `plain_http` allows a registry without TLS. Raises StoreError."""
    from tfserving.export.oci.place import is_registry, read_place

    if is_mlflow_uri(url):
        from tfserving.export.published.in_mlflow import InMlflow

        yield InMlflow(url)
    elif is_registry(url):
        from tfserving.export.oci.registry import Registry
        from tfserving.export.oci.session import Session
        from tfserving.export.published.in_registry import InRegistry

        place = read_place(url)
        with Session(place, plain_http) as session:
            yield InRegistry(place, Registry(session))
    else:
        from tfserving.export.published.in_store import InStore

        yield InStore(url)
