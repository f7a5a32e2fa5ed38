"""The provenance of a version as an in-toto statement with a SLSA predicate, which other tools verify.

    manifest ──► statement: subjects are the version's files, predicate is https://slsa.dev/provenance/v1
                    └─► with a key: a DSSE envelope

`docs/provenance.md` describes the build type. https://slsa.dev/spec/v1.0/provenance has the fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tfserving.export.check import check_files
from tfserving.export.manifest import Manifest
from tfserving.foundation.manifest import MANIFEST
from tfserving.foundation.version_files import sha256_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PREDICATE = "https://slsa.dev/provenance/v1"
PAYLOAD = "application/vnd.in-toto+json"
BUILD_TYPE = "pkg:pypi/tfserving#export/v1"
# Who exported it, unless a platform is named that is more than somebody's machine.
BUILDER = "pkg:pypi/tfserving#export"
# The names of digests in in-toto that differ from those in a manifest.
_ALGORITHMS = {"git": "gitCommit"}
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")


def is_uri(text: str) -> bool:
    """Return whether `text` is an absolute URI."""
    return bool(_URI.fullmatch(text))


def statement(folder: Path, builder_id: str = BUILDER) -> dict[str, Any]:
    """Return the statement about the version in `folder`, as JSON values, after comparing every file with its manifest.

    `builder_id` is the URI of the platform that ran the export. Raises ExportError, and ModuleNotFoundError without
    the extra `sign`.
    """
    from google.protobuf.json_format import MessageToDict
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    manifest = check_files(folder)
    predicate = Provenance()
    definition, details = predicate.build_definition, predicate.run_details
    definition.build_type = BUILD_TYPE
    definition.external_parameters.update(_parameters(manifest))
    definition.internal_parameters.update(
        {"platform": manifest.provenance.platform.model_dump(), "goldenDevice": manifest.golden_device}
    )
    for one in _dependencies(manifest):
        descriptor = ResourceDescriptor(**one)
        descriptor.validate()
        definition.resolved_dependencies.append(descriptor.pb)
    details.builder.id = builder_id
    details.builder.version.update({"tfserving": manifest.provenance.toolkit, "python": manifest.provenance.python})
    details.metadata.invocation_id = f"sha256:{manifest.digest}"
    details.metadata.started_on.FromJsonString(_time(manifest.provenance.started))
    details.metadata.finished_on.FromJsonString(_time(manifest.created))
    sums = {name: entry.sha256 for name, entry in manifest.files.items()} | {MANIFEST: sha256_of(folder / MANIFEST)}
    subjects = [ResourceDescriptor(name=name, digest={"sha256": sums[name]}).pb for name in sorted(sums)]
    made = Statement(subjects, PREDICATE, MessageToDict(predicate))
    made.validate()
    # All numbers are whole.
    return dict(json.loads(json.dumps(MessageToDict(made.pb)), parse_float=lambda number: int(float(number))))


def signed(payload: bytes, key: EllipticCurvePrivateKey) -> dict[str, Any]:
    """Return the DSSE envelope of a statement, signed with a private key, as JSON values.

    https://github.com/secure-systems-lab/dsse/blob/v1.0.2/envelope.md. Its key ID is the SHA-256 of the public key's
    PEM text, as in a version's signature.
    """
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

    public = key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    described = SSlibKey.from_crypto(public, keyid=hashlib.sha256(pem).hexdigest())
    envelope = Envelope(payload, PAYLOAD, {})
    envelope.sign(CryptoSigner(key, described))
    return dict(envelope.to_dict())


def _parameters(manifest: Manifest) -> dict[str, Any]:
    """Return what the user chose, as far as the manifest has it."""
    found: dict[str, Any] = {"model": manifest.model, "version": manifest.version}
    if manifest.builder:
        found["builder"] = manifest.builder
    if manifest.saved_model:
        # No path of the exporting machine.
        found["savedModel"] = Path(manifest.saved_model).name
    if manifest.checkpoint:
        found["checkpoint"] = manifest.checkpoint
    return {**found, "options": list(manifest.options)}


def _dependencies(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield the arguments of in-toto's resource descriptors: source, builder, data, Python and its packages."""
    made = manifest.provenance
    if source := made.source:
        yield {
            "name": "source",
            "uri": f"git+{source.repository}" if source.repository else "",
            "digest": {"gitCommit": source.commit},
            "annotations": {"kind": "source", "dirty": source.dirty, "path": source.path},
        }
    if file := made.builder_file:
        yield {"name": file.path, "digest": {"sha256": file.sha256}, "annotations": {"kind": "builder"}}
    for name, digest in made.training_data.items():
        algorithm, _, digits = digest.partition(":")
        found = {_ALGORITHMS.get(algorithm, algorithm): digits}
        yield {"name": name, "digest": found, "annotations": {"kind": "training data"}}
    # https://github.com/package-url/purl-spec: a version is percent-encoded.
    yield {"uri": f"pkg:generic/python@{quote(made.python)}"}
    for name, version in made.packages.items():
        yield {"uri": f"pkg:pypi/{quote(name)}@{quote(version)}"}


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
