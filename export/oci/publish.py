"""Publishes a version to an OCI registry, as an image.

    check the version ──► look for the tag ──► layer and config, by digest ──► manifest with the tag ──► read the tag

Blobs are found by their digest, so the files of two publishers can't be mixed. A registry has no conditional write of a
tag, though. When two publishers write the same number at the same time, the last one's version gets the tag, and the
other one reports that, if its own tag is gone when it reads it back. A registry that doesn't let tags be changed closes
this gap: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-manifests
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfserving.export.oci.archive import pack
from tfserving.export.oci.errors import NotInRegistryError, RegistryError
from tfserving.export.oci.layout import (
    Copies,
    Descriptor,
    Image,
    annotations_of,
    descriptor_of,
    digest_of,
    make_config,
    make_manifest,
    read_config,
    read_image,
)
from tfserving.export.oci.place import Place
from tfserving.export.oci.registry import LARGEST_MANIFEST, Registry
from tfserving.export.oci.session import Session
from tfserving.export.outgoing import NEVER, Outgoing, PublishError, outgoing
from tfserving.foundation.trust import Trust
from tfserving.foundation.version_files import VersionError


@dataclass(frozen=True)
class Pushed:
    """A version in a registry: how its image is named by tag and by digest, and what was sent now.

    `digest` is that of the version's manifest. `created` is false when the tag was there before. `signer` is None
    without `trust`.
    """

    url: str
    reference: str
    digest: str
    signer: str | None
    created: bool
    files: int
    sent_bytes: int
    duration_seconds: float

    def __str__(self) -> str:
        if not self.created:
            return f"{self.url} exists already, and all {self.files} files are the same\n{self.reference}"
        sent = f"{self.files} files, {self.sent_bytes} bytes sent"
        return f"{self.url}: {sent}, in {self.duration_seconds:.1f} s\n{self.reference}"


def push(
    version_folder: Path,
    model: str,
    version: int,
    place: Place,
    plain_http: bool = False,
    now: Callable[[str], None] = lambda _: None,
    trust: Trust | None = None,
) -> Pushed:
    """Publish the version in `version_folder` as the tag VERSION of the repository PLACE/MODEL.

    `plain_http` allows a registry without TLS that isn't on this machine. `now` is called with each step. A tag that
    has the same files is left as it is. Raises PublishError when the version is not intact or not signed as `trust`
    requires, when the tag has other files, or when the registry can't be written.
    """
    start = time.monotonic()
    now("comparing the files with the manifest")
    own = outgoing(version_folder, model, version, trust)
    try:
        with Session(place, plain_http) as session, tempfile.NamedTemporaryFile() as kept:
            image, created, sent = _Push(Registry(session), place, own, now).run(Path(kept.name))
    except (RegistryError, VersionError) as error:
        raise PublishError(str(error)) from None
    except OSError as error:
        raise PublishError(f"{error.filename or tempfile.gettempdir()}: {error.strerror or error}") from None
    return Pushed(
        f"{place}/{model}:{version}",
        image,
        own.digest,
        own.signer,
        created,
        own.count,
        sent,
        round(time.monotonic() - start, 3),
    )


class _Push:
    """One version on its way to one tag."""

    def __init__(self, registry: Registry, place: Place, own: Outgoing, now: Callable[[str], None]) -> None:
        self._registry, self._own, self._now = registry, own, now
        self._repository, self._tag = place.repository(own.model), str(own.version)
        self._name = f"{place.host}/{self._repository}"

    def run(self, kept: Path) -> tuple[str, bool, int]:
        """Publish the version; return its image by digest, whether it is new, and the number of bytes sent.

        `kept` is a temporary file.
        """
        self._now(f"looking for {self._name}:{self._tag}")
        there = self._there()
        layer, copies = self._packed(kept)
        config = make_config(copies)
        image = Image(descriptor_of(config), layer)
        data = make_manifest(image, annotations_of(self._own.manifest))
        if len(data) > LARGEST_MANIFEST:
            raise RegistryError(f"{self._name}: the image's manifest has {len(data)} bytes")
        if there is not None:
            return self._require_same(there, copies), False, 0
        sent = self._upload(layer, kept, "layer") + self._upload(image.config, config, "config")
        # Another publisher may have finished meanwhile: the later this is looked for, the less is overwritten.
        if (there := self._there()) is not None and there != data:
            return self._require_same(there, copies), False, sent
        self._now("writing the tag")
        self._registry.put_manifest(self._repository, self._tag, data)
        self._now("reading the tag back")
        if (found := self._there()) != data:
            other = "the tag is gone" if found is None else f"it is {digest_of(found)}"
            raise RegistryError(
                f"{self._name}:{self._tag} was written by another publisher at the same time: {other}, this version is "
                f"{digest_of(data)}. Publish a new number"
            )
        return f"{self._name}@{digest_of(data)}", True, sent + len(data)

    def _there(self) -> bytes | None:
        try:
            return self._registry.manifest(self._repository, self._tag)
        except NotInRegistryError:
            return None

    def _packed(self, kept: Path) -> tuple[Descriptor, Copies]:
        """Write the layer to `kept`, and return what describes it."""
        files = {name: (entry.size, entry.sha256) for name, entry in self._own.files.items()}
        for name, content in self._own.beside.items():
            files[name] = len(content), digest_of(content).removeprefix("sha256:")
        total = sum(size for size, _ in files.values())
        if (free := shutil.disk_usage(kept.parent).free) < total:
            raise RegistryError(
                f"{kept.parent} has {free} bytes free, and the layer needs {total}. Set TMPDIR to another folder"
            )
        with kept.open("wb") as file:
            layer, diff_id = pack(
                self._own.folder, files, file, lambda done: self._now(f"packing {done >> 20} of {total >> 20} MiB")
            )
        return layer, Copies(self._own.data, self._own.signature, diff_id)

    def _upload(self, blob: Descriptor, content: bytes | Path, what: str) -> int:
        if self._registry.has_blob(self._repository, blob):
            return 0
        self._now(f"sending the {what} ({blob.size} bytes)")
        self._registry.upload(
            self._repository,
            blob,
            content,
            lambda done: self._now(f"sending the {what}: {done >> 20} of {blob.size >> 20} MiB"),
        )
        return blob.size

    def _require_same(self, there: bytes, copies: Copies) -> str:
        """Return the name by digest of the image that is there. Raises RegistryError when it has other files.

        The compressed layer may differ between machines, its tar doesn't.
        """
        where = f"{self._name}:{self._tag}"
        image = read_image(there, where)
        found = read_config(self._registry.blob(self._repository, image.config), where)
        if found.manifest == copies.manifest and found.signature != copies.signature:
            raise RegistryError(
                f"{where} exists already, as {digest_of(there)}, with the same files and another signature. A tag is "
                "never overwritten: publish a new number, or delete the tag first"
            )
        if found != copies:
            raise RegistryError(f"{where} exists already, as {digest_of(there)}, and differs. {NEVER}")
        return f"{self._name}@{digest_of(there)}"
