"""The rules of lint, which every version is checked against before it is served. docs/lint.md explains each.

A rule checks what servers and clients see: the signatures, the graph behind them, and the golden outputs. It needs no
TensorFlow and works for any SavedModel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from tfserving.export.batches import without_batch
from tfserving.export.changes import signature_changes
from tfserving.export.effects import written_effects
from tfserving.export.findings import Finding, of_adopted
from tfserving.export.graph import read_graph
from tfserving.export.manifest import ServedSignature, read_manifest
from tfserving.export.ranks import trusting
from tfserving.export.savedmodel import read_signatures
from tfserving.export.servable import MADE_UP, shape_text
from tfserving.foundation.golden import MANIFEST, GoldenRequest, read_golden, versions_on_disk
from tfserving.foundation.graph import CALLS, Graph, Node
from tfserving.foundation.operations import DOES, FILES, PYTHON, class_of
from tfserving.foundation.served_ops import SERVED_OPS
from tfserving.foundation.tensors import BY_NAME, BY_NUMBER, STRING, dtype_of

# By the name of their field in TensorInfo.
NOT_DENSE = {"coo_sparse": "a sparse tensor", "composite_tensor": "a ragged or other composite tensor"}
# JSON has no values of these dtypes, and TensorFlow Serving doesn't convert them: it rejects an input with 501, and an
# output with 400 (tensorflow/serving, util/json_tensor.cc).
NOT_IN_JSON = ("bfloat16", "complex64", "complex128", "float16")
NOT_FROM_JSON = (*NOT_IN_JSON, "uint16")
BYTES = ("int8", "uint8")
FLOATS = tuple(BY_NAME[name].number for name in ("bfloat16", "float16", "float32", "float64"))
# Operations whose strings are bytes, not text.
MAKE_BYTES = (
    *("EncodeJpeg", "EncodeJpegVariableQuality", "EncodePng", "EncodeWav", "EncodeBase64Bytes"),
    *("EncodeProto", "SerializeTensor", "SerializeSparse", "SerializeManySparse", "DecodeBase64", "DecodeCompressed"),
)


def lint_signatures(
    signatures: Mapping[str, ServedSignature],
    previous: Mapping[str, ServedSignature] | None = None,
    unbatched: Collection[str] = (),
) -> list[Finding]:
    """Return the findings about `signatures`, by themselves and compared with those of the previous version.

    Signatures that are `unbatched` have no batch dimension; a note states the cost.
    """
    if not signatures:
        return [
            Finding(
                "no-signature",
                "the SavedModel",
                "it has no signature, so it can't be called. A Keras model that was never called has none",
                "Build the model, and export it with named signatures",
            )
        ]
    found = [
        finding
        for name, signature in signatures.items()
        for finding in (*_tensors(name, signature), *_batches(name, signature, unbatched=name in unbatched))
    ]
    return found + [
        Finding(
            "breaking-change",
            f"signature {change.signature!r}",
            change.what,
            "Clients of the previous version would fail. Keep the signature and add another one, or use --breaking",
        )
        for change in signature_changes(previous or {}, signatures)
        if change.breaking
    ]


def lint_graph(graph: Graph, signatures: Mapping[str, ServedSignature]) -> list[Finding]:
    """Return the findings about the graph behind the `signatures` of a SavedModel."""
    rules: tuple[Callable[[str, Graph, ServedSignature], Iterable[Finding]], ...] = (
        not_servable,
        _effects,
        _int_inputs,
        _bytes_outputs,
        _operations,
        _unchecked_ranks,
        _unrestored,
    )
    return [
        finding for name, signature in signatures.items() for rule in rules for finding in rule(name, graph, signature)
    ]


def lint_outputs(requests: Iterable[GoldenRequest]) -> list[Finding]:
    """Return the findings about golden outputs: strings that are not text, under a name without `_bytes`."""
    found: dict[tuple[str, str], Finding] = {}
    for request in requests:
        for name, array in request.outputs.items() if request.method == "predict" else ():
            if dtype_of(array) is STRING and not name.endswith("_bytes"):
                other = next((value for value in array.ravel().tolist() if not _is_text(value)), None)
                if other is not None:
                    found.setdefault(
                        (request.signature, name),
                        _bytes_suffix(request.signature, name, f"got {other[:20]!r}, which is not UTF-8"),
                    )
    return list(found.values())


def lint_version(folder: Path) -> list[Finding]:
    """Return all findings about the SavedModel in `folder`, compared with the previous version beside it.

    For a SavedModel that no builder made, limits for clients are only notes, as in an export of it as it is. Raises
    ExportError when it can't be read, and GoldenError when its golden requests are damaged.
    """
    signatures = read_signatures(folder)
    before = previous_version(folder)
    golden, adopted = None, True
    if (folder / MANIFEST).exists():
        golden, adopted = read_golden(folder), read_manifest(folder).builder is None
    found = [
        *lint_signatures(
            signatures,
            read_signatures(before) if before else None,
            golden.unbatched if golden else without_batch(signatures),
        ),
        *lint_graph(read_graph(folder), signatures),
        *lint_outputs(golden.requests if golden else ()),
    ]
    return of_adopted(found) if adopted else found


def previous_version(folder: Path) -> Path | None:
    """Return the folder of the version before the one in `folder`; None when `folder` is no version or the first."""
    if not folder.name.isdecimal():
        return None
    lower = [version for version in versions_on_disk(folder.parent) if version < int(folder.name)]
    return folder.parent / str(max(lower)) if lower else None


def _tensors(name: str, signature: ServedSignature) -> Iterator[Finding]:
    """Yield the findings about the names and dtypes of a signature."""
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for key, spec in specs.items():
            where = f"signature {name!r}, {kind} {key!r}"
            if MADE_UP.fullmatch(key):
                yield Finding(
                    "made-up-name",
                    where,
                    "Keras or TensorFlow generated this name because none was given",
                    "Give it a name that describes it",
                )
            if spec.dtype in (NOT_FROM_JSON if kind == "input" else NOT_IN_JSON):
                yield Finding(
                    "rest-dtype",
                    where,
                    f"JSON can't represent {spec.dtype}, so REST requests fail",
                    "Cast it to float32 in the signature" if spec.dtype != "uint16" else "Declare it as int32",
                )


def _batches(name: str, signature: ServedSignature, *, unbatched: bool) -> Iterator[Finding]:
    """Yield the findings about the batch of a signature's inputs and outputs, or the cost of having none."""
    # A value that is not a tensor has no shape here, and has a finding of its own.
    inputs, outputs = (
        {key: spec for key, spec in specs.items() if spec.dtype in BY_NAME}
        for specs in (signature.inputs, signature.outputs)
    )
    if unbatched:
        yield Finding(
            "unbatched",
            f"signature {name!r}",
            "it takes one example per request",
            "Servers run each request by itself and can't batch them. TensorFlow Serving with batching enabled rejects "
            "them",
            note=True,
        )
        return
    fixed = False
    for key, spec in inputs.items():
        if spec.shape and spec.shape[0] is not None:
            fixed = True
            yield Finding(
                "fixed-batch",
                f"signature {name!r}, input {key!r}",
                f"its shape {shape_text(spec.shape)} fixes the first dimension, the batch",
                f"Declare {shape_text((None, *spec.shape[1:]))}, that is None first, to accept any batch. If the first "
                "dimension is not a batch, declare the signature with batched=False",
            )
    for key, spec in outputs.items() if not fixed else ():
        if spec.shape is not None and spec.shape[:1] != (None,):
            yield Finding(
                "output-batch",
                f"signature {name!r}, output {key!r}",
                f"its shape {shape_text(spec.shape)} does not begin with the batch",
                "Return one row for each row of the inputs, or declare the signature with batched=False. Common causes "
                "are a reshape to a fixed size and a value for the whole batch",
            )


def not_servable(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:
    """Yield the findings about tensors of the signature `name` that no request or response can contain."""
    definition = graph.signatures[name]
    for kind, infos in (("input", definition.inputs), ("output", definition.outputs)):
        if not infos:
            yield Finding(
                "not-servable",
                f"signature {name!r}",
                f"it has no {kind}s",
                f"Add {kind}s, or remove the signature",
            )
        for key, info in sorted(infos.items()):
            what = NOT_DENSE.get(info.WhichOneof("encoding"))
            if what is None and info.dtype not in BY_NUMBER:
                what = f"of dtype {getattr(signature, f'{kind}s')[key].dtype}, which no client supports"
            if what:
                yield Finding(
                    "not-servable",
                    f"signature {name!r}, {kind} {key!r}",
                    f"it is {what}. Requests and responses contain dense tensors only",
                    "Use its parts, such as values and row lengths, as separate inputs or outputs",
                )


def _effects(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:  # noqa: ARG001
    return written_effects(name, graph)


def _int_inputs(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:
    for key, spec in signature.inputs.items():
        # Bytes are chosen for their size, as for pixels.
        if "int" not in spec.dtype or spec.dtype in BYTES:
            continue
        consumers = graph.consumers(graph.signatures[name].inputs[key].name)
        if consumers and all(node.op == "Cast" and node.message.attr["DstT"].type in FLOATS for node in consumers):
            yield Finding(
                "int-input",
                f"signature {name!r}, input {key!r}",
                f"it is {spec.dtype}, and the graph only casts it to float. REST rejects 1.5 and 1.0 for it",
                "Declare it as float32",
            )


def _bytes_outputs(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:
    for key, spec in signature.outputs.items() if signature.method == "predict" else ():
        if spec.dtype == "string" and not key.endswith("_bytes"):
            node = graph.producer(graph.signatures[name].outputs[key].name)
            if node is not None and node.op in MAKE_BYTES:
                yield _bytes_suffix(name, key, f"it comes from {node}")


def _bytes_suffix(signature: str, output: str, why: str) -> Finding:
    return Finding(
        "bytes-suffix",
        f"signature {signature!r}, output {output!r}",
        f"it contains bytes, not text ({why}). REST sends base64 only if the name ends with _bytes",
        f"Rename it to {output + '_bytes'!r}",
    )


def _operations(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:  # noqa: ARG001
    where = f"signature {name!r}"
    by_op: dict[str, Node] = {}
    for node in graph.nodes(name):
        by_op.setdefault(node.op, node)
    for op, node in sorted(by_op.items()):
        kind = class_of(node.message)
        if kind == PYTHON:
            yield Finding(
                "python-op", where, f"{node} calls Python, which servers lack", "Write it with TensorFlow operations"
            )
        elif DOES.get(kind) == DOES[FILES]:
            yield Finding(
                "file-op",
                where,
                f"{node} reads or writes files of the server at each request",
                "Take the contents as an input, or keep them in a variable or table",
            )
        elif op not in CALLS and not op.startswith("_") and not graph.is_function(op) and not _is_served(op):
            yield Finding(
                "unregistered-op",
                where,
                f"TensorFlow Serving lacks the operation {node}",
                "Write it with TensorFlow operations, or serve it with a build that includes the operation",
            )


def _unchecked_ranks(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:
    for key, spec in signature.inputs.items():
        if nodes := trusting(graph, graph.signatures[name].inputs[key].name):
            more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
            yield Finding(
                "unchecked-rank",
                f"signature {name!r}, input {key!r}",
                f"its rank is not checked before {nodes[0]}{more}, and a wrong rank crashes the server there",
                "Declare its rank" if spec.shape is None else "Export it with a builder, which checks every input",
            )


def _unrestored(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:  # noqa: ARG001
    if lost := graph.unrestored(name):
        yield Finding(
            "untracked-variable",
            f"signature {name!r}",
            f"it uses the variables {', '.join(lost)}, which have no value after the version is loaded",
            "Make them attributes of the module that is exported",
        )


def _is_served(op: str) -> bool:
    return op in SERVED_OPS or op in _registered()


@lru_cache
def _registered() -> frozenset[str]:
    """Return TensorFlow's own operations, those in `tf.raw_ops`. Reading its file takes 1 % of an import's time."""
    spec = find_spec("tensorflow")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
    raw_ops = Path(spec.origin).parent / "_api/v2/raw_ops/__init__.py"
    return frozenset(re.findall(r" import (\w+)", raw_ops.read_text()))


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
