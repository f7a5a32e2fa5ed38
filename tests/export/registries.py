"""A real registry, Debian's, and what somebody with write access to it can do."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import free_ports, wait_for
from tfserving.export.oci.layout import (
    Copies,
    Descriptor,
    Image,
    descriptor_of,
    digest_of,
    make_config,
    make_manifest,
)
from tfserving.export.oci.place import Place
from tfserving.export.oci.publish import Pushed
from tfserving.export.oci.publish import push as oci_push
from tfserving.export.oci.registry import Registry
from tfserving.export.oci.session import Session
from tfserving.export.published.fetch import Fetched, fetch
from tfserving.export.published.source import opened
from tfserving.foundation.manifest import MANIFEST, SIGNATURE
from tfserving.foundation.store import Limits
from tfserving.foundation.trust import Trust

PROGRAM = "docker-registry"
REPOSITORY = "team/models"


@contextlib.contextmanager
def started(folder: Path, tls: dict[str, str] | None = None, **settings: Any) -> Iterator[str]:
    """Starts a registry with its configuration and log in `folder`; the address it listens on."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"inmemory": {}},
        "http": {"addr": address, **({"tls": tls} if tls else {})},
        **settings,
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([PROGRAM, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:

        def ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()[-1000:]
            try:
                urllib.request.urlopen(f"http://{address}/v2/", timeout=5)
            except urllib.error.HTTPError as error:
                # With TLS it returns 400.
                return error.code in (400, 401)
            except OSError:
                return False
            return True

        wait_for(ready, what="the registry")
        yield address
    finally:
        process.kill()
        process.wait(60)


@dataclass(frozen=True)
class Attacker:
    """Somebody who can write to the registry, and knows how versions are kept there."""

    address: str
    repository: str = f"{REPOSITORY}/scaled"

    def put(self, tag: str, manifest: bytes, *blobs: bytes) -> None:
        """Writes blobs, and a manifest as `tag`."""
        with Session(Place(self.address)) as session:
            registry = Registry(session)
            for blob in blobs:
                registry.upload(self.repository, descriptor_of(blob), blob)
            registry.put_manifest(self.repository, tag, manifest)

    def image(self, tag: str) -> bytes:
        """The manifest of a tag."""
        with Session(Place(self.address)) as session:
            return Registry(session).manifest(self.repository, tag)

    def blob(self, blob: Descriptor) -> bytes:
        """The bytes of a blob."""
        with Session(Place(self.address)) as session:
            return Registry(session).blob(self.repository, blob)

    def push(self, tag: str, copies: Copies, layer: bytes) -> None:
        """Writes an image of this layer, whose configuration has these copies."""
        config = make_config(copies)
        image = Image(descriptor_of(config), descriptor_of(layer))
        self.put(tag, make_manifest(image, {}), config, layer)

    def push_version(
        self, tag: str, version: Path, change: Callable[[dict[str, Any]], object] = lambda _: None, **other: Any
    ) -> None:
        """Writes the version's image after `change` of what its tar has, by name: bytes, or a member and bytes.

        `other` are fields of the configuration's copies that differ from what the tar has.
        """
        members: dict[str, Any] = {
            path.relative_to(version).as_posix(): path.read_bytes()
            for path in sorted(version.rglob("*"))
            if path.is_file()
        }
        change(members)
        tar = tar_of(members)
        signature = version / SIGNATURE
        copies = {
            "manifest": (version / MANIFEST).read_bytes(),
            "signature": signature.read_bytes() if signature.exists() else None,
            "diff_id": digest_of(tar),
            **other,
        }
        self.push(tag, Copies(**copies), gzip.compress(tar, 1))


def push(version: Path, place: Place, **options: Any) -> Pushed:
    """Publishes the version in a folder MODEL/VERSION."""
    return oci_push(version, version.parent.name, int(version.name), place, **options)


def tar_of(members: Mapping[str, Any]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in members.items():
            member, data = content if isinstance(content, tuple) else (tarfile.TarInfo(name), content)
            member.name = name
            if member.isreg():
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return made.getvalue()


def link(kind: bytes, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar that is a link."""
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, target
    return member, b""


def fetched(
    address: str, wanted: int | str | None, folder: Path, trust: Trust | None = None, limits: Limits | None = None
) -> Fetched:
    with opened(f"oci://{address}/{REPOSITORY}") as source:
        return fetch(source, "scaled", wanted, folder, trust, limits or Limits())


def left(folder: Path) -> set[str]:
    """Every file and folder below `folder`."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")} if folder.exists() else set()


def changed(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """JSON after a change of the object that it is."""
    content = json.loads(data)
    change(content)
    return json.dumps(content).encode()
