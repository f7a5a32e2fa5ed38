"""Software bills of materials of images, as CycloneDX: https://cyclonedx.org/docs/1.6/json/.

The same content has the same text: the serial number is a hash of the content, and the time is that of
SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch/), or is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timezone
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import ExternalReference, HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from tfserving.serving.docker.image_names import tag_and_digest

# Where our images have theirs. The ending is that of https://cyclonedx.org/specification/overview/.
FOLDER, ENDING = "/usr/local/share/sbom", ".cdx.json"


def image_of(name: str, digest: str = "", references: Iterable[ExternalReference] = ()) -> Component:
    """Return the component of an image by its name; `digest` is that of its manifest, if the name has none."""
    tag, named = tag_and_digest(name)
    digest = named or digest
    repository = name.partition("@")[0].removesuffix(f":{tag}" if tag else "")
    host, slash, rest = repository.partition("/")
    if not slash:
        host, rest = "docker.io", f"library/{repository}"
    elif not set(".:") & {*host} and host != "localhost":
        host, rest = "docker.io", repository
    qualifiers = {"repository_url": f"{host}/{rest}", **({"tag": tag} if tag else {})}
    return Component(
        type=ComponentType.CONTAINER,
        name=repository,
        version=tag or digest or None,
        bom_ref=name,
        hashes=[sha256(digest.removeprefix("sha256:"))] if digest else (),
        purl=PackageURL("oci", None, rest.rpartition("/")[2].lower(), digest, qualifiers) if digest else None,
        external_references=references,
    )


def image_bom(image: Component, base: Component, components: Iterable[Component], bom: Bom) -> Bom:
    """Return `bom` as that of `image`, which is based on `base` and contains `components` as well."""
    image.pedigree = Pedigree(ancestors=[base])
    bom.metadata.component = image
    bom.components.update(components)
    bom.register_dependency(image, bom.components)
    return bom


def sha256(digest: str) -> HashType:
    """Return a SHA-256, of 64 hexadecimal digits."""
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def written(bom: Bom) -> str:
    """Return an SBOM as JSON."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    # They may be absent in CycloneDX, but the library expects both.
    bom.metadata.timestamp = (
        datetime.fromtimestamp(int(epoch), timezone.utc) if epoch else None  # type: ignore[assignment]
    )
    bom.serial_number = None  # type: ignore[assignment]
    bom.serial_number = uuid5(NAMESPACE_URL, JsonV1Dot6(bom).output_as_string(indent=1))
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"
