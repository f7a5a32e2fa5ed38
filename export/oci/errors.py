"""What can fail with a registry."""

from __future__ import annotations

from tfserving.foundation.store import AbsentError, StoreError


class RegistryError(StoreError):
    """A registry can't be read or written, or has something else than a version. The text is one line."""


class NotInRegistryError(RegistryError, AbsentError):
    """A repository, tag or blob isn't in the registry."""
