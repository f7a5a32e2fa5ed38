"""How the provenance of two versions differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tfserving.export.manifest import Manifest

# In the order of the chain.
_PARTS = ("repository", "commit", "dirty", "folder", "builder", "data", "toolkit", "python", "package", "platform")


@dataclass(frozen=True)
class ProvenanceChange:
    """A part of the provenance that differs; None where a version lacks it."""

    what: str
    old: str | None
    new: str | None


def provenance_changes(old: Manifest | None, new: Manifest | None) -> tuple[ProvenanceChange, ...]:
    """Return what differs: the commit, the builder, training data, packages, the platform. Times are left out."""
    if old is None or new is None:
        return ()
    before, after = dict(_parts(old)), dict(_parts(new))
    names = sorted(before.keys() | after.keys(), key=lambda name: (_PARTS.index(name.partition(" ")[0]), name))
    changes = (ProvenanceChange(name, before.get(name), after.get(name)) for name in names)
    return tuple(change for change in changes if change.old != change.new)


def _parts(manifest: Manifest) -> Iterator[tuple[str, str | None]]:
    made = manifest.provenance
    if source := made.source:
        yield "repository", source.repository
        yield "commit", source.commit
        yield "dirty", "yes" if source.dirty else "no"
        yield "folder", source.path
    yield "builder", manifest.builder
    if file := made.builder_file:
        yield "builder file", f"{file.path}, sha256:{file.sha256}"
    yield from ((f"data {name}", digest) for name, digest in made.training_data.items())
    yield "toolkit", made.toolkit
    yield "python", made.python
    yield from ((f"package {name}", version) for name, version in made.packages.items())
    yield from ((f"platform {name}", value) for name, value in made.platform.model_dump().items())
