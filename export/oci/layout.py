"""A version as an OCI image: its manifest, its configuration and its layer.

    manifest ── artifactType, annotations: model, version, created
       ├── config: an image configuration ── rootfs.diff_ids: the SHA-256 of the layer's tar
       │                                  └─ dev.tfserving.version: manifest.json and model.sig of the version
       └── layer: the version's files, a deterministic tar, compressed

It is a valid image of one layer for linux/amd64, so a container runtime can mount it as a volume, whose root is the
version's folder.
`oras pull` unpacks the layer too: https://oras.land/docs/how_to_guides/pushing_and_pulling

The configuration has a copy of the version's manifest and signature, so that they can be read without the weights.
A specification of images lets a configuration have fields of one's own; a label of the image would be limited to
4096 bytes by containerd, and a second layer would become a part of the volume. A referrer would be written after the
image and found by a tag on registries of older versions, so it could be missing or another's.
https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md#properties
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfserving.export.oci.errors import RegistryError
from tfserving.export.oci.place import DIGEST
from tfserving.foundation.manifest import LARGEST_BYTES, SIGNATURE, Manifest, ManifestError
from tfserving.foundation.version_files import BESIDE

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.tfserving.version.v1"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
# The key of the copies in the configuration.
COPIES = "dev.tfserving.version"
# A text in JSON takes up to six bytes for one of it, but a manifest and a signature are mostly plain.
LARGEST_CONFIG = 16 << 20
_LARGEST_SIZE = 1 << 50


@dataclass(frozen=True)
class Descriptor:
    """The digest of a blob, and its size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class Image:
    """The blobs of a version's image, as its manifest names them."""

    config: Descriptor
    layer: Descriptor


@dataclass(frozen=True)
class Copies:
    """What a configuration says of a version: its manifest and signature, and the SHA-256 of the layer's tar."""

    manifest: bytes
    signature: bytes | None
    diff_id: str


def digest_of(data: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor_of(data: bytes) -> Descriptor:
    """Return the descriptor of some bytes."""
    return Descriptor(digest_of(data), len(data))


def make_config(copies: Copies) -> bytes:
    """Return an image's configuration: the same bytes for the same version. Raises RegistryError if it is too large."""
    own = {"manifest": copies.manifest.decode()}
    if copies.signature is not None:
        own["signature"] = copies.signature.decode(errors="strict")
    config = {
        # containerd unpacks an image only for the platform of its node. TensorFlow Serving has images for this one.
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [copies.diff_id]},
        COPIES: own,
    }
    if len(data := _encoded(config)) > LARGEST_CONFIG:
        raise RegistryError(f"the manifest and the signature have {len(data)} bytes, {LARGEST_CONFIG} are possible")
    return data


def make_manifest(image: Image, annotations: Mapping[str, str]) -> bytes:
    """Return an image's manifest: the same bytes for the same version."""
    return _encoded(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": image.config.digest, "size": image.config.size},
            "layers": [
                {
                    "mediaType": LAYER_TYPE,
                    "digest": image.layer.digest,
                    "size": image.layer.size,
                    # `oras pull` unpacks it into the folder that it writes to.
                    "annotations": {"org.opencontainers.image.title": ".", "io.deis.oras.content.unpack": "true"},
                }
            ],
            "annotations": dict(annotations),
        }
    )


def annotations_of(manifest: Manifest) -> dict[str, str]:
    """Return the annotations of a version's image. Nothing relies on them: they are for people and other tools."""
    found = {
        "org.opencontainers.image.title": manifest.model(),
        "org.opencontainers.image.version": str(manifest.version()),
        "dev.tfserving.manifest.digest": f"sha256:{manifest.digest()}",
    }
    if created := manifest.created():
        found["org.opencontainers.image.created"] = created.isoformat()
    return found


def read_image(data: bytes, where: str) -> Image:
    """Return what an image's manifest names. Raises RegistryError when it isn't the image of a version."""
    content = _object(_decoded(data, where), "the manifest", where)
    if content.get("schemaVersion") != 2 or content.get("mediaType", MANIFEST_TYPE) != MANIFEST_TYPE:  # noqa: PLR2004
        raise RegistryError(f"{where} is not an OCI image: its mediaType is {_shown(content.get('mediaType'))}")
    if content.get("artifactType") != ARTIFACT_TYPE:
        raise RegistryError(
            f"{where} is not a version: its artifactType is {_shown(content.get('artifactType'))}, expected "
            f"{ARTIFACT_TYPE}"
        )
    layers = content.get("layers")
    if not isinstance(layers, list) or len(layers) != 1:
        raise RegistryError(f"{where} is not a version: it has not exactly one layer")
    config = _descriptor(content.get("config"), CONFIG_TYPE, "config", where)
    if config.size > LARGEST_CONFIG:
        raise RegistryError(f"{where}: its config has {config.size} bytes, expected at most {LARGEST_CONFIG}")
    return Image(config, _descriptor(layers[0], LAYER_TYPE, "layers[0]", where))


def read_config(data: bytes, where: str) -> Copies:
    """Return what an image's configuration says of the version. Raises RegistryError; nothing of it is verified."""
    content = _object(_decoded(data, where), "config", where)
    own = _object(content.get(COPIES), f"config.{COPIES}", where)
    diff_ids = _object(content.get("rootfs"), "config.rootfs", where).get("diff_ids")
    if not isinstance(diff_ids, list) or len(diff_ids) != 1 or not _is_digest(diff_ids[0]):
        raise RegistryError(f"{where}: config.rootfs.diff_ids is not one digest")
    manifest = _text(own.get("manifest"), "manifest", LARGEST_BYTES, where)
    signature = own.get("signature")
    return Copies(
        manifest,
        None if signature is None else _text(signature, "signature", BESIDE[SIGNATURE], where),
        str(diff_ids[0]),
    )


def manifest_of(copies: Copies, where: str) -> Manifest:
    """Return the version's manifest in a configuration. Raises RegistryError when it isn't one."""
    try:
        found = Manifest(copies.manifest, f"{where}: the manifest in its config")
        found.files(), found.digest(), found.model(), found.version()
    except ManifestError as error:
        raise RegistryError(str(error)) from None
    return found


def _descriptor(content: object, media_type: str, key: str, where: str) -> Descriptor:
    found = _object(content, key, where)
    if found.get("mediaType") != media_type:
        raise RegistryError(f"{where}: {key}.mediaType is {_shown(found.get('mediaType'))}, expected {media_type}")
    digest, size = found.get("digest"), found.get("size")
    if not _is_digest(digest):
        raise RegistryError(f"{where}: {key}.digest is {_shown(digest)}, expected sha256: and 64 digits")
    if type(size) is not int or not 0 <= size <= _LARGEST_SIZE:
        raise RegistryError(f"{where}: {key}.size is {_shown(size)}, expected a number of bytes")
    return Descriptor(str(digest), size)


def _is_digest(content: object) -> bool:
    return isinstance(content, str) and bool(DIGEST.fullmatch(content))


def _text(content: object, key: str, most: int, where: str) -> bytes:
    if not isinstance(content, str):
        raise RegistryError(f"{where}: the {key} in its config is {_shown(content)}, expected a text")
    try:
        data = content.encode()
    except UnicodeEncodeError:
        raise RegistryError(f"{where}: the {key} in its config is not Unicode") from None
    if len(data) > most:
        raise RegistryError(f"{where}: the {key} in its config has {len(data)} bytes, expected at most {most}")
    return data


def _decoded(data: bytes, where: str) -> object:
    try:
        return json.loads(data.decode())
    except RecursionError:
        raise RegistryError(f"{where} is nested too deep") from None
    except ValueError:
        raise RegistryError(f"{where} is no JSON") from None


def _object(content: object, key: str, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise RegistryError(f"{where}: {key} is {_shown(content)}, expected an object")
    return content


def _shown(content: object) -> str:
    if isinstance(content, (dict, list)):
        return "an object" if isinstance(content, dict) else "a list"
    text = ascii(content) if not isinstance(content, int) or abs(content) < 1 << 64 else "a huge number"
    return text if len(text) <= 80 else f"{text[:79]}…"  # noqa: PLR2004 - a line has to do


def _encoded(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
