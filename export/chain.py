"""The chain from the commit to a served version: commit, builder, training data, export, manifest, labels, servers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tfserving.export.manifest import Manifest
from tfserving.export.provenance import SourceCommit
from tfserving.foundation.manifest import TENSORFLOWS

# The data sets that are listed.
_SOME = 20


@dataclass(frozen=True)
class Served:
    """A version on a server: the model's name there, its state, and its manifest's digest if the server shows one."""

    server: str
    name: str
    state: str
    manifest: str | None

    def text(self, manifest: Manifest) -> str:
        """Return a line about it; `manifest` is that of the version on disk."""
        found = f"{self.server}: version {manifest.version} of {self.name} is {self.state}"
        if self.manifest is None:
            return f"{found}; the digest of its manifest is not shown there"
        same = "the same manifest" if self.manifest == manifest.digest else f"another manifest, sha256:{self.manifest}"
        return f"{found}, with {same}"


@dataclass(frozen=True)
class Use:
    """Where a version is used: its `labels` in models.yaml, None without one, and servers; None if none was called."""

    labels: tuple[str, ...] | None = None
    served: tuple[Served, ...] | None = None


def links(manifest: Manifest, signed: str, use: Use) -> Iterator[tuple[str, str]]:
    """Yield the links of the chain; `signed` is the one about the signature."""
    made = manifest.provenance
    yield "commit", commit_text(made.source)
    if manifest.builder:
        file = f", {made.builder_file.path}, sha256:{made.builder_file.sha256}" if made.builder_file else ""
        # A builder of the toolkit loads the models of MLflow that are Keras files.
        loaded = f", loading {manifest.saved_model}" if manifest.saved_model else ""
        yield "builder", f"{manifest.builder}{file}{loaded}"
    else:
        yield "builder", f"none: the SavedModel {manifest.saved_model}, as it is"
    data = list(made.training_data.items())
    for name, digest in data[:_SOME]:
        yield "training data", f"{name}, {digest}"
    if not data:
        yield "training data", "not reported by the builder"
    elif len(data) > _SOME:
        yield "training data", f"and {len(data) - _SOME} more"
    main = [f"{name} {made.packages[name]}" for name in (*TENSORFLOWS, "keras") if name in made.packages]
    versions = ", ".join([f"tfserving {made.toolkit}", f"Python {made.python}", *main])
    more = f"{len(made.packages) - len(main)} more packages"
    on = ", ".join(part for part in (made.platform.system, made.platform.machine, made.platform.cpu) if part)
    yield "exported", f"{manifest.created.isoformat()} with {versions} and {more}, on {on}"
    yield "manifest", f"sha256:{manifest.digest}"
    yield "signed", signed
    if use.labels is not None:
        yield "labels", ", ".join(use.labels) or "none in models.yaml"
    for one in use.served or ():
        yield "served", one.text(manifest)
    if use.served == ():
        yield "served", "the server does not have this version"


def commit_text(source: SourceCommit | None) -> str:
    """Return a commit as it is printed."""
    if source is None:
        return "not recorded: no Git repository"
    of = f" of {source.repository}" if source.repository else ""
    below = f", folder {source.path}" if source.path != "." else ""
    dirty = ", but files differed from it" if source.dirty else ""
    return f"{source.commit}{of}{below}{dirty}"
