"""manifest.json of a version: its origin, its signatures and tolerances, and the hash of every file."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tfserving.export.errors import ExportError
from tfserving.export.provenance import Provenance
from tfserving.export.servable import Method, TensorSpec
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.devices import Device
from tfserving.foundation.files import read_bounded
from tfserving.foundation.golden import MANIFEST
from tfserving.foundation.manifest import LARGEST_BYTES, SIGNATURE, EvaluationEntry
from tfserving.foundation.quality import Metric
from tfserving.foundation.version_files import sha256_of


class ManifestError(ExportError):
    """The manifest of a version is missing or can't be read."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServedSignature(_Strict):
    """A signature as a server reads it from the SavedModel."""

    method: Method
    inputs: dict[str, TensorSpec]
    optional: Annotated[tuple[str, ...], Field(description="Inputs that a request may leave out.")] = ()
    outputs: dict[str, TensorSpec]

    def __str__(self) -> str:
        inputs, outputs = (
            ", ".join(f"{name}: {spec}" for name, spec in specs.items()) for specs in (self.inputs, self.outputs)
        )
        return f"{self.method} from {inputs} to {outputs}"


class FileEntry(_Strict):
    """One file of the version."""

    size: Annotated[int, Field(ge=0, description="Bytes.")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(_Strict):
    """assets.extra/manifest.json of an exported version."""

    format: Annotated[Literal[3], Field(description="The format of this file.")] = 3
    model: Annotated[str, Field(description="The name of the model on servers.")]
    version: Annotated[int, Field(ge=1)]
    created: Annotated[datetime, Field(description="When it was exported, in UTC.")]
    builder: Annotated[
        str | None,
        Field(description="The function that made the servable, as 'module:function'. None for a SavedModel."),
    ] = None
    saved_model: Annotated[
        str | None,
        Field(
            description="The folder of the SavedModel that was exported as it is, or the model of MLflow that was "
            "exported. None for any other builder's model."
        ),
    ] = None
    made_requests: Annotated[
        tuple[str, ...],
        Field(description="The signatures whose golden requests contain random values of their dtypes and shapes."),
    ] = ()
    checkpoint: Annotated[
        str | None, Field(description="The checkpoint from which the variables were restored, if one was named.")
    ] = None
    options: Annotated[
        tuple[str, ...], Field(description="The options that changed the graph: freeze, optimize, half, xla.")
    ] = ()
    provenance: Annotated[Provenance, Field(description="Where the version is from. It is recorded, not proven.")]
    metrics: Annotated[
        dict[str, float | Metric],
        Field(description="The metrics that the builder measured, by name: numbers, or numbers with a direction."),
    ]
    evaluation: Annotated[
        EvaluationEntry | None,
        Field(description="The metric of the labelled rows in assets.extra/evaluation.tfrecord, if there are any."),
    ] = None
    signatures: dict[str, ServedSignature]
    unbatched: Annotated[
        tuple[str, ...],
        Field(description="The signatures that take one example per request, so that requests can't be batched."),
    ] = ()
    golden_device: Annotated[
        str,
        Field(description="The device that computed the golden outputs, without TF32: `cpu`, or a GPU's name."),
    ] = "cpu"
    tolerances: Annotated[
        dict[Device, dict[str, Tolerance]],
        Field(
            description="The tolerances by kind of device that serves the version (a processor, a GPU, a GPU with "
            "TF32) and by dtype of output. Outputs of any other dtype must be equal. A kind without an entry can't be "
            "verified: differences depend too much on the model, and they were not measured, or were too large."
        ),
    ]
    measured: Annotated[
        dict[Device, str],
        Field(
            description="The kinds of device whose tolerances were measured at the export, with the name of the "
            "device. The others are from a table and the differences between two processes on the exporting machine."
        ),
    ] = {}
    edge_values_left_out: Annotated[
        dict[str, dict[str, tuple[str, ...]]],
        Field(
            description="Edge values that no golden request contains, by signature and reason: the model `fails` for "
            "them, its output for other rows `changes` beside them, or the served graph `differs` from its Python code."
        ),
    ] = {}
    files: Annotated[dict[str, FileEntry], Field(description="All other files, by path in the version's folder.")]
    digest: Annotated[str, Field(description="SHA-256 of this file with an empty digest.", pattern="^([0-9a-f]{64})?$")]

    def text(self) -> str:
        """Return the text of the file, with a new digest."""
        digest = hashlib.sha256(self._text("").encode()).hexdigest()
        return self._text(digest)

    def _text(self, digest: str) -> str:
        # Empty optional fields are left out.
        optional = ("builder", "saved_model", "made_requests", "evaluation", "unbatched", "edge_values_left_out")
        absent = {name for name in (*optional, "measured") if not getattr(self, name)}
        return self.model_copy(update={"digest": digest}).model_dump_json(indent=2, exclude=absent) + "\n"


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Return size and SHA-256 of every file below `folder` except its manifest and signature, by relative path."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in (folder / MANIFEST, folder / SIGNATURE)
    }


def read_manifest(version_folder: Path) -> Manifest:
    """Return the manifest of the version in `version_folder`.

    Raises ManifestError when it is missing, can't be read, or was changed.
    """
    path = version_folder / MANIFEST
    try:
        data = read_bounded(path, LARGEST_BYTES)
        manifest = Manifest.model_validate_json(data)
    except FileNotFoundError:
        raise ManifestError(f"{version_folder} has no {MANIFEST}: this toolkit did not export it") from None
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        if problem["type"] == "json_invalid":
            raise ManifestError(f"{path} is not valid JSON. Export the version again.") from None
        what = "is missing" if problem["type"] == "missing" else f"has the invalid value {problem['input']!r:.60}"
        raise ManifestError(f"{path}: {where} {what}. docs/manifest.schema.json describes the file.") from None
    except ValueError as error:
        raise ManifestError(f"{path}: {error}") from None
    if manifest.text().encode() != data:
        raise ManifestError(f"{path} was changed: its digest does not match its contents")
    return manifest
