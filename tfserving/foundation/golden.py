"""Golden requests: requests stored in a version, with the responses that its model returned in process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from google.protobuf.message import DecodeError

from tfserving.foundation.compare import Tolerance
from tfserving.foundation.devices import Device
from tfserving.foundation.examples import class_arrays, read_examples
from tfserving.foundation.manifest import MANIFEST as MANIFEST  # noqa: PLC0414 - a name of a version's files
from tfserving.foundation.manifest import SAVED_MODEL as SAVED_MODEL  # noqa: PLC0414
from tfserving.foundation.manifest import ManifestError, read_manifest_file
from tfserving.foundation.messages import PredictionLog, SavedModel
from tfserving.foundation.records import RecordError, read_records
from tfserving.foundation.tensors import Array, from_proto, to_proto

RECORDS = "assets.extra/golden.tfrecord"
# https://www.tensorflow.org/tfx/serving/saved_model_warmup
WARMUP = "assets.extra/tf_serving_warmup_requests"
LARGEST_VERSION = (1 << 63) - 1
# Zeros before the number count.
_LONGEST_VERSION = 32
_DEFAULT_SIGNATURE = "serving_default"
Method = Literal["predict", "classify", "regress"]


class GoldenError(Exception):
    """A version's golden requests are missing or damaged; the text names the file."""


@dataclass(frozen=True)
class GoldenRequest:
    """One request, and the response that the model returned in process.

    A request to classify or regress has one input, `inputs`: serialized tf.Examples. Its outputs are `classes` (str, as
    in the response) and `scores`, or `outputs`, the values.
    """

    signature: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    method: Method = "predict"

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes a request the same one: its signature and its inputs, bit by bit."""
        values = [
            (
                name,
                str(array.dtype),
                array.shape,
                tuple(array.ravel().tolist()) if array.dtype == object else array.tobytes(),
            )
            for name, array in sorted(self.inputs.items())
        ]
        return (self.signature, self.method, *values)


@dataclass(frozen=True)
class Golden:
    """The golden requests of one version, and how far a served output may be from them.

    `tolerances` are by kind of device and element type; an element type without one must be equal.
    `defaults` has by signature the values of inputs that some of the requests leave out. Requests to signatures in
    `unbatched` are one example each, whatever their arrays look like.
    """

    requests: tuple[GoldenRequest, ...]
    tolerances: Mapping[Device, Mapping[str, Tolerance]]
    defaults: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    unbatched: frozenset[str] = frozenset()


def is_version(name: str) -> bool:
    """Whether a folder of this name is a version: a number that TensorFlow Serving's messages have room for."""
    return name.isascii() and name.isdecimal() and len(name) <= _LONGEST_VERSION and int(name) <= LARGEST_VERSION


def versions_on_disk(model_folder: Path) -> dict[int, Path]:
    """The folders of `model_folder` that are versions: those whose name is a number."""
    folders = sorted(child for child in model_folder.iterdir() if is_version(child.name))
    return {int(child.name): child for child in folders if child.is_dir()}


def read_golden(version_folder: Path) -> Golden:
    """The golden requests in `version_folder`, a SavedModel's, checked against the manifest's SHA-256.

    Raises GoldenError when the manifest or the requests are missing, damaged, or none.
    """
    path = version_folder / RECORDS
    try:
        manifest = read_manifest_file(version_folder / MANIFEST)
        wanted, tolerances, unbatched = manifest.sha256(RECORDS), manifest.tolerances(), manifest.unbatched()
    except ManifestError as error:
        raise GoldenError(str(error)) from None
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != wanted:
            raise GoldenError(f"{path} has SHA-256 {digest.hexdigest()}, {MANIFEST} lists {wanted}: it was changed")
        requests = tuple(_request(path, number, data) for number, data in enumerate(read_records(path)))
    except OSError as error:
        raise GoldenError(f"{path}: {error.strerror}") from None
    except RecordError as error:
        raise GoldenError(str(error)) from None
    if not requests:
        raise GoldenError(f"{path} contains no golden request")
    return Golden(requests, tolerances, _defaults(version_folder / SAVED_MODEL, requests), unbatched)


def _defaults(path: Path, requests: Iterable[GoldenRequest]) -> dict[str, dict[str, Array]]:
    """The defaults in the SavedModel at `path` of signatures that some of `requests` call without all their inputs."""
    names: dict[str, list[set[str]]] = {}
    for request in requests:
        names.setdefault(request.signature, []).append(set(request.inputs))
    fewer = [signature for signature, inputs in names.items() if any(some != inputs[0] for some in inputs)]
    if not fewer:
        return {}
    try:
        graphs = SavedModel.FromString(path.read_bytes()).meta_graphs
    except OSError as error:
        raise GoldenError(f"{path}: {error.strerror}") from None
    except DecodeError:
        raise GoldenError(f"{path} is no SavedModel, or a damaged one") from None
    try:
        return {
            signature: {name: from_proto(value) for name, value in graph.signature_def[signature].defaults.items()}
            for graph in graphs
            for signature in fewer
            if signature in graph.signature_def
        }
    except ValueError as error:
        raise GoldenError(f"{path}: a default of an input can't be read: {error}") from None


def request_of(log: Any, *, responded: bool = True) -> GoldenRequest:
    """Return the request and response in the PredictionLog `log`; with `responded` False the response may be missing.

    Raises ValueError when it is no request to predict, classify or regress, or has no response.
    """
    kind = log.WhichOneof("log_type")
    if kind not in _READERS:
        raise ValueError("got another record than a predict, classify or regress request")
    method, read = _READERS[kind]
    entry = getattr(log, kind)
    inputs, outputs = read(entry)
    if not outputs and responded:
        raise ValueError(f"got a {method} request without a response")
    return GoldenRequest(entry.request.model_spec.signature_name or _DEFAULT_SIGNATURE, inputs, outputs, method)


def log_of(request: GoldenRequest, model: str, version: int | None = None) -> Any:
    """The PredictionLog of `request` to `model`, with its response if it has one: the format that `request_of` reads.

    Raises ValueError for a class label that is not UTF-8, which no client could read.
    """
    log = PredictionLog()
    entry = getattr(log, f"{request.method}_log")
    spec = entry.request.model_spec
    spec.name, spec.signature_name = model, request.signature
    if version is not None:
        spec.version.value = version
    if request.method == "predict":
        for name, array in request.inputs.items():
            entry.request.inputs[name].CopyFrom(to_proto(array))
    else:
        read_examples(request.inputs["inputs"].tolist()).write(entry.request.input)
    if request.outputs:
        entry.response.model_spec.CopyFrom(spec)
        _write_outputs(entry.response, request)
    return log


def _write_outputs(message: Any, request: GoldenRequest) -> None:
    if request.method == "predict":
        for name, array in request.outputs.items():
            message.outputs[name].CopyFrom(to_proto(array))
    elif request.method == "regress":
        for value in request.outputs["outputs"].ravel().tolist():
            message.result.regressions.add(value=value)
    else:
        rows, classes = next(iter(request.outputs.values())).shape
        labels = request.outputs.get("classes", np.full((rows, classes), b"", np.object_))
        scores = request.outputs.get("scores", np.zeros((rows, classes), np.float32))
        for row_labels, row_scores in zip(labels.tolist(), scores.tolist(), strict=True):
            row = message.result.classifications.add()
            for label, score in zip(row_labels, row_scores, strict=True):
                row.classes.add(label=_label(request.signature, label), score=score)


def _label(signature: str, label: bytes | str) -> str:
    try:
        return label if isinstance(label, str) else label.decode()
    except UnicodeDecodeError:
        raise ValueError(
            f"signature {signature!r}, output 'classes' has the label {label!r}, not UTF-8: no client could read it"
        ) from None


def _request(path: Path, number: int, data: bytes) -> GoldenRequest:
    try:
        return request_of(PredictionLog.FromString(data))
    except (DecodeError, ValueError) as error:
        raise GoldenError(f"{path}, record {number}: {error}") from None


def _read_predict(log: Any) -> tuple[dict[str, Array], dict[str, Array]]:
    return (
        {name: from_proto(log.request.inputs[name]) for name in sorted(log.request.inputs)},
        {name: from_proto(log.response.outputs[name]) for name in sorted(log.response.outputs)},
    )


def _read_classify(log: Any) -> tuple[dict[str, Array], dict[str, Array]]:
    rows = [[(entry.label, entry.score) for entry in row.classes] for row in log.response.result.classifications]
    labels, scores = class_arrays(rows)
    return _read_examples(log.request.input), {"classes": labels, "scores": scores} if rows else {}


def _read_regress(log: Any) -> tuple[dict[str, Array], dict[str, Array]]:
    values = [entry.value for entry in log.response.result.regressions]
    return _read_examples(log.request.input), {"outputs": np.array(values, np.float32)} if values else {}


def _read_examples(sent: Any) -> dict[str, Array]:
    examples = sent.example_list.examples
    serialized = np.empty(len(examples), np.object_)
    serialized[:] = [example.SerializeToString(deterministic=True) for example in examples]
    return {"inputs": serialized}


_READERS: dict[str, tuple[Method, Callable[[Any], tuple[dict[str, Array], dict[str, Array]]]]] = {
    "predict_log": ("predict", _read_predict),
    "classify_log": ("classify", _read_classify),
    "regress_log": ("regress", _read_regress),
}
