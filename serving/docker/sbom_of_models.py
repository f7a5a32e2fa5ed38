"""The SBOM of an image that contains models: versions with digests and signers, and the SBOMs of the base image."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from tempfile import TemporaryFile
from typing import TYPE_CHECKING
from uuid import UUID

from cyclonedx.model import ExternalReference, ExternalReferenceType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType

from tfserving.foundation.trust import Accepted
from tfserving.serving.docker import daemon
from tfserving.serving.docker.container import PREFIX
from tfserving.serving.docker.sbom import ENDING, FOLDER, image_bom, image_of, sha256, written
from tfserving.serving.engines import EngineError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

# The name of its file in the image.
MODELS = f"models{ENDING}"
_LARGEST_BYTES = 32 << 20


def sbom_of_models(
    client: DockerClient, name: str, base_name: str, base: Image, versions: Mapping[tuple[str, int], Accepted]
) -> str:
    """Return the SBOM of the image `name`, which has these versions, on `base`. Raises EngineError."""
    pulled = base.attrs.get("RepoDigests") or [""]
    ancestor = image_of(base_name, pulled[0].partition("@")[2], _boms_of(client, base))
    models = [model_component(model, version, accepted) for (model, version), accepted in versions.items()]
    return written(image_bom(image_of(name), ancestor, models, Bom()))


def model_component(name: str, version: int, accepted: Accepted) -> Component:
    """Return the component of a version; its hash is that of its manifest, which lists its files."""
    properties = {"manifest": f"sha256:{accepted.digest}"} | ({"signer": accepted.signer} if accepted.signer else {})
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=name,
        version=str(version),
        bom_ref=f"model {name}/{version}",
        hashes=[sha256(accepted.digest)],
        properties=[Property(name=f"{PREFIX}:{key}", value=value) for key, value in properties.items()],
    )


def _boms_of(client: DockerClient, image: Image) -> Iterator[ExternalReference]:
    """Yield references to the SBOMs in an image: https://cyclonedx.org/capabilities/bomlink/.

    A file without the serial number and version of an SBOM is left out.
    """
    for name, data in _files_of(client, image):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            content = json.loads(data)
            yield ExternalReference(
                type=ExternalReferenceType.BOM,
                url=XsUri(f"urn:cdx:{UUID(content['serialNumber'])}/{int(content['version'])}"),
                comment=f"{FOLDER}/{name} in this image",
                hashes=[sha256(hashlib.sha256(data).hexdigest())],
            )


def _files_of(client: DockerClient, image: Image) -> Iterator[tuple[str, bytes]]:
    """Yield the SBOMs in an image, by the names of their files. Only a container has files, and it is never started."""
    from docker.errors import NotFound

    api = client.api
    with daemon.explained(f"the SBOM of {image.id} can't be read"), TemporaryFile() as archive:
        container = api.create_container(image.id, command=["none"])["Id"]
        try:
            for chunk in api.get_archive(container, FOLDER)[0]:
                archive.write(chunk)
                if archive.tell() > _LARGEST_BYTES:
                    raise EngineError(f"{FOLDER} in the image {image.id} has more than {_LARGEST_BYTES >> 20} MiB")
        except NotFound:
            return
        finally:
            api.remove_container(container, force=True, v=True)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as files:
            for info in files:
                # The image that is built has its own file of this name.
                path = info.name.rpartition("/")[2]
                if path.endswith(ENDING) and path != MODELS and (file := files.extractfile(info)):
                    yield path, file.read()
