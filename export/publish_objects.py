"""Publishing to an object store: one conditional write decides whose version a number is.

    MODEL/.publishing/SHA256-ID/…     1. all files are uploaded here, and read back
    MODEL/VERSION/…/manifest.json     2. written only if there is none: this decides
    MODEL/VERSION/…                   3. the other files, copied from the upload of the decided version, and read back
    MODEL/VERSION/saved_model.pb      4. last: servers find the version

SHA256 is that of the manifest, so the decided manifest names the uploads with its files. ID is random: each publisher
has an upload of its own. Whoever finds a decided version without saved_model.pb goes on with step 3, whoever decided
it. So a publisher may end at any moment: before step 2 there is no version, and after it any other publisher can
complete it. Every file in the version's place is written only if there is none, and only with what the decided manifest
lists. So whatever a publisher still does after a pause, a version stays as it is.

Nobody removes another publisher's upload. A publisher removes its own when the version is complete or another's, or
when it ends before step 2. From there on its upload may be the only one with the files of the decided version.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from tfserving.export.objects import Objects
from tfserving.export.outgoing import NEVER, Outgoing, PublishError, differs, is_another, key_of
from tfserving.foundation.manifest import (
    LARGEST_BYTES,
    MANIFEST,
    SAVED_MODEL,
    SIGNATURE,
    Entry,
    Manifest,
    ManifestError,
)
from tfserving.foundation.store import PUBLISHING, Limits
from tfserving.foundation.version_files import BESIDE, differences

# Larger files are copied within the store. Smaller ones, and saved_model.pb, go through this machine: they are compared
# with the manifest before they are written.
SMALL = 8 << 20
_LIMITS = Limits()


class _MissingError(PublishError):
    """No upload has a file of the decided version."""


class ObjectPublisher:
    """Publishes one version to a store, which other publishers use at the same time."""

    def __init__(self, own: Outgoing, objects: Objects, models: str, url: str, now: Callable[[str], None]) -> None:
        """`models` is the path of the models in the store, and `url` that of the version for errors."""
        self._own, self._objects, self._url, self._now = own, objects, url, now
        self._final = f"{models}/{own.model}/{own.version}"
        self._uploads = f"{models}/{own.model}/{PUBLISHING}"
        # Of these, the last one is whole.
        self._mine: list[str] = []
        # The upload may be the one that others complete the version from.
        self._needed = False
        self._created = False
        self.sent: dict[str, int] = {}

    def run(self) -> bool:
        """Publish the version; return whether it wasn't there before. Raises PublishError and errors of the store."""
        try:
            decided = self._decided()
            if decided is None:
                self._send()
                decided = self._decide()
            if decided != self._own.data:
                self._needed = False
                raise self._other(decided)
            try:
                self._complete(self._own.data, self._own.manifest, self._own.files)
            except _MissingError:
                self._send()
                self._needed = True
                self._complete(self._own.data, self._own.manifest, self._own.files)
            self._needed = False
        finally:
            for upload in self._mine if not self._needed else ():
                with contextlib.suppress(Exception):
                    self._objects.remove(upload)
        return self._created

    def _decided(self) -> bytes | None:
        """Return the manifest in the version's place; None when nothing is there."""
        there = self._objects.sizes(self._final)
        # Read after the list: what others published meanwhile has its manifest by now.
        found = self._manifest()
        if found is None and there:
            some = ", ".join(sorted(there)[:5])
            raise PublishError(
                f"{self._url} has files but no {MANIFEST}, so `tfserving export publish` did not write them: {some}. "
                "Remove them, or publish a new number."
            )
        return found

    def _manifest(self) -> bytes | None:
        try:
            return self._objects.read(f"{self._final}/{MANIFEST}", LARGEST_BYTES)
        except ValueError:
            raise PublishError(f"{self._url}/{MANIFEST} is larger than {LARGEST_BYTES} bytes. {NEVER}") from None

    def _send(self) -> None:
        """Upload all files to a place of this publisher's own, and read them back."""
        own, objects = self._own, self._objects
        others = self._sources(key_of(own.data))
        upload = f"{self._uploads}/{key_of(own.data)}-{secrets.token_hex(8)}"
        self._mine.append(upload)
        for number, (name, entry) in enumerate(own.files.items(), 1):
            self._now(f"{number} of {own.count}: {name} ({entry.size} bytes)")
            if not self._reuse(others, upload, name, entry):
                objects.send(own.folder / name, f"{upload}/{name}")
                self.sent[name] = entry.size
                if (found := objects.sha256(f"{upload}/{name}", entry.size)) != entry.sha256:
                    raise PublishError(
                        f"{self._url}/{name}: read back SHA-256 {found}, expected {entry.sha256} ({entry.size} bytes)"
                    )
        for name, data in own.beside.items():
            objects.create(f"{upload}/{name}", data)
            self.sent[name] = len(data)
            if objects.read(f"{upload}/{name}", len(data)) != data:
                raise PublishError(f"{self._url}/{name}: read back other bytes than those that were sent")
        if objects.create(f"{upload}/{MANIFEST}", own.data):
            raise PublishError(
                f"{self._url}: the store overwrites an object in spite of `If-None-Match: *`. Two publishers of one "
                "number could mix their files there. Use a store with conditional writes."
            )

    def _reuse(self, others: Mapping[str, Mapping[str, int]], upload: str, name: str, entry: Entry) -> bool:
        """Copy a large file from an upload of the same version that did not end; return whether there is one."""
        target = f"{upload}/{name}"
        for other, sizes in others.items() if entry.size > SMALL else ():
            if sizes.get(name) == entry.size:
                try:
                    self._objects.copy(f"{other}/{name}", target, entry.size)
                except FileNotFoundError:
                    continue  # Its publisher has just removed it.
                if self._objects.sha256(target, entry.size) == entry.sha256:
                    return True
                self._objects.remove_one(target)
        return False

    def _decide(self) -> bytes:
        """Write the manifest if there is none; return the one that is there."""
        # A write whose reply is lost may still decide.
        self._needed = True
        if self._objects.create(f"{self._final}/{MANIFEST}", self._own.data):
            self._created = True
            return self._own.data
        found = self._manifest()
        if found is None:
            raise PublishError(f"{self._url} was removed while it was published. Publish it again.")
        return found

    def _other(self, decided: bytes) -> PublishError:
        """Complete another version that has this number, and return the error."""
        where = f"{self._url}/{MANIFEST}"
        try:
            manifest = Manifest(decided, where)
            files, digest = manifest.files(), manifest.digest()
            if (manifest.model(), manifest.version()) != (self._own.model, self._own.version):
                return PublishError(f"{where} is of version {manifest.version()} of {manifest.model()}. {NEVER}")
        except ManifestError as error:
            return PublishError(f"{error}. {NEVER}")
        another = is_another(self._url, digest, self._own)
        if SAVED_MODEL in self._objects.sizes(self._final):
            return another
        if len(files) > _LIMITS.files or sum(entry.size for entry in files.values()) > _LIMITS.size:
            return PublishError(f"{another} It is incomplete, and too large to be completed by another publisher.")
        try:
            self._complete(decided, manifest, files)
        except PublishError as incomplete:
            return PublishError(f"{another} It is incomplete: {incomplete}")
        return another

    def _complete(self, decided: bytes, manifest: Manifest, files: Mapping[str, Entry]) -> None:
        """Copy what is missing of the decided version, and read back all of it."""
        there = self._objects.sizes(self._final)
        missing = [name for name in files if name not in there and name != SAVED_MODEL]
        visible = SAVED_MODEL in there
        sources = {} if visible and not missing else self._sources(key_of(decided))
        for number, name in enumerate(missing, 1):
            self._now(f"copying within the store, {number} of {len(missing)}: {name} ({files[name].size} bytes)")
            self._place(name, files[name], sources)
        self._now("reading the version back")
        self._judge(decided, manifest, lacking=() if visible else (SAVED_MODEL,))
        self._sign(decided, sources)
        if not visible:
            self._place(SAVED_MODEL, files[SAVED_MODEL], sources)
            self._judge(decided, manifest, known=files.keys() - {SAVED_MODEL})
        if decided == self._own.data:
            self._accept()

    def _sources(self, key: str) -> dict[str, dict[str, int]]:
        """Return the uploads of a version, this publisher's first, with the sizes of their files."""
        found: dict[str, dict[str, int]] = {upload: {} for upload in reversed(self._mine)}
        for path, size in self._objects.sizes(self._uploads, f"{key}-").items():
            upload, _, name = path.partition("/")
            found.setdefault(f"{self._uploads}/{upload}", {})[name] = size
        return found

    def _place(self, name: str, entry: Entry, sources: Mapping[str, Mapping[str, int]]) -> None:
        """Copy a file of the decided version to its place, from the first upload that has it."""
        target = f"{self._final}/{name}"
        for source, sizes in sources.items():
            if sizes.get(name) != entry.size:
                continue
            try:
                if entry.size > SMALL and name != SAVED_MODEL:
                    # This publisher's own upload was read back.
                    if source in self._mine or self._objects.sha256(f"{source}/{name}", entry.size) == entry.sha256:
                        self._objects.copy(f"{source}/{name}", target, entry.size)
                        return
                    continue
                with tempfile.TemporaryDirectory(prefix="tfserving-publish-") as folder:
                    file = Path(folder) / "file"
                    if self._objects.fetch(f"{source}/{name}", entry, file):
                        written = self._objects.create_from(target, file)
                        self._created |= written and name == SAVED_MODEL
                        return
            except FileNotFoundError:
                continue  # Its publisher has just removed it.
        if name not in self._objects.sizes(self._final):
            raise _MissingError(f"no upload in {PUBLISHING} has its {name}. {NEVER}")

    def _judge(
        self, decided: bytes, manifest: Manifest, known: Collection[str] = (), lacking: Collection[str] = ()
    ) -> None:
        """Compare the version's place with its manifest. `known` files were read before; `lacking` ones may be."""
        sizes = self._objects.sizes(self._final)
        listed = manifest.files()
        problems = differences(
            manifest,
            sizes,
            lambda name: (
                listed[name].sha256
                if name in known
                else self._objects.sha256(f"{self._final}/{name}", listed[name].size)
            ),
        )
        problems = [problem for problem in problems if problem not in {f"{name} is missing" for name in lacking}]
        if self._manifest() != decided:
            problems.append(f"{MANIFEST} was changed")
        if problems:
            raise differs(self._url, problems)

    def _sign(self, decided: bytes, sources: Mapping[str, Mapping[str, int]]) -> None:
        """Write the signature: this publisher's over any other one; that of another version if there is none."""
        target = f"{self._final}/{SIGNATURE}"
        if decided == self._own.data:
            if self._own.signature is not None:
                found = self._signature(target)
                if found is None:
                    self._objects.create(target, self._own.signature)
                elif found != self._own.signature:
                    self._objects.write(target, self._own.signature)
            return
        for source, sizes in sources.items():
            if SIGNATURE in sizes and (data := self._signature(f"{source}/{SIGNATURE}")):
                self._objects.create(target, data)
                return

    def _signature(self, path: str) -> bytes | None:
        try:
            return self._objects.read(path, BESIDE[SIGNATURE])
        except ValueError:
            return b""

    def _accept(self) -> None:
        """Judge the signature in the version's place, which another publisher may have replaced meanwhile."""
        found = self._signature(f"{self._final}/{SIGNATURE}")
        if found != self._own.signature:
            self._own.accept_signature(found, self._url)
