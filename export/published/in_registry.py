"""Versions in an OCI registry."""

from __future__ import annotations

from pathlib import Path

from tfserving.export.oci.archive import unpack
from tfserving.export.oci.errors import RegistryError
from tfserving.export.oci.layout import Copies, Image, digest_of, manifest_of, read_config, read_image
from tfserving.export.oci.place import Place
from tfserving.export.oci.registry import Registry
from tfserving.export.published.source import Contents, Numbers, Progress, Wanted
from tfserving.foundation.golden import is_version
from tfserving.foundation.manifest import MANIFEST, SIGNATURE
from tfserving.foundation.store import Limits

# Tags of a model that are read.
MOST_TAGS = 100_000


class InRegistry:
    """The versions below a repository. See `Source`."""

    def __init__(self, place: Place, registry: Registry) -> None:
        self._place, self._registry = place, registry
        self.url = str(place)
        # By digest of an image: what was read of it.
        self._read: dict[str, tuple[Image, Copies]] = {}

    def models(self) -> list[str] | None:
        """See `Source`. Registries don't list what is below a repository."""
        return None

    def versions(self, model: str) -> Numbers:
        """See `Source`."""
        tags = self._registry.tags(self._place.repository(model), MOST_TAGS)
        numbers = {int(name) for name in tags.names if is_version(name) and not name.startswith("0")}
        return Numbers(tuple(sorted(numbers, reverse=True)), tags.more)

    def contents(self, model: str, version: Wanted, limits: Limits) -> Contents:
        """See `Source`. The image's configuration has the version's manifest and signature."""
        repository = self._place.repository(model)
        where = f"{self.url}/{model}" + (f"@{version}" if isinstance(version, str) else f":{version}")
        data = self._registry.manifest(repository, str(version))
        image = read_image(data, where)
        copies = read_config(self._registry.blob(repository, image.config), where)
        manifest = manifest_of(copies, where)
        files = manifest.files()
        size = len(copies.manifest) + sum(entry.size for entry in files.values())
        if len(files) > limits.files:
            raise RegistryError(f"{where} has {len(files)} files; --max-files is {limits.files}")
        if max(size, image.layer.size) > limits.size:
            raise RegistryError(f"{where} has {max(size, image.layer.size)} bytes; --max-bytes is {limits.size}")
        digest = digest_of(data)
        self._read[digest] = image, copies
        reference = f"{self._place.host}/{repository}@{digest}"
        return Contents(copies.manifest, manifest, copies.signature, size, reference=reference)

    def fetch(self, model: str, _version: Wanted, contents: Contents, into: Path, progress: Progress) -> None:
        """See `Source`. The files are those of the digest that `contents` names, whatever the tag names now."""
        assert contents.reference is not None
        where = contents.reference
        image, copies = self._read[where.rpartition("@")[2]]
        sizes = {name: entry.size for name, entry in contents.manifest.files().items()}
        sizes[MANIFEST] = len(copies.manifest)
        if copies.signature is not None:
            sizes[SIGNATURE] = len(copies.signature)
        with self._registry.reading(self._place.repository(model), image.layer, progress) as layer:
            unpack(layer, sizes, copies.diff_id, into, where)
        # What was listed, checked and limited must be what was fetched.
        for name, copy in ((MANIFEST, copies.manifest), (SIGNATURE, copies.signature)):
            if copy is not None and (into / name).read_bytes() != copy:
                raise RegistryError(f"{where}: {name} in its layer is not the one in its config")
