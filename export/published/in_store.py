"""Versions in a folder or an object store."""

from __future__ import annotations

from pathlib import Path

from tfserving.export.published.source import Contents, Numbers, Progress, Wanted
from tfserving.foundation.manifest import MANIFEST, Manifest
from tfserving.foundation.store import AbsentError, Limits, Listing, Store, StoreError, UnfinishedError
from tfserving.foundation.version_files import differences


class InStore:
    """The versions below a URL that fsspec supports, or a folder. See `Source`."""

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        self.url = self._store.url

    def models(self) -> list[str] | None:
        """See `Source`."""
        return self._store.models()

    def versions(self, model: str) -> Numbers:
        """See `Source`."""
        found = tuple(reversed(self._store.versions(model)))
        return Numbers(found, unfinished=len(self._store.unfinished(model)))

    def contents(self, model: str, version: Wanted, limits: Limits) -> Contents:
        """See `Source`."""
        number = self._number(version)
        is_complete = self._store.complete(model, number)
        try:
            listing = self._store.listing(model, number, limits)
        except AbsentError:
            if not is_complete:
                raise UnfinishedError(f"{self.url}/{model}/{number} is still being published") from None
            raise
        manifest = Manifest(listing.manifest, f"{self.url}/{model}/{number}/{MANIFEST}")
        # The hashes can't be compared without the files, the sizes can.
        problems = differences(manifest, self._store.sizes(model, number), lambda name: listing.files[name].sha256)
        return Contents(
            listing.manifest,
            manifest,
            self._store.signature(model, number),
            listing.size,
            is_complete,
            tuple(problems) if is_complete else (),
        )

    def fetch(self, model: str, version: Wanted, contents: Contents, into: Path, progress: Progress) -> None:
        """See `Source`."""
        listing = Listing(contents.data, contents.manifest.files())
        self._store.fetch(model, self._number(version), listing, into, progress)

    def _number(self, version: Wanted) -> int:
        if isinstance(version, str):
            raise StoreError(f"{self.url} is no registry, so no version is found there by the digest {version}")
        return version
