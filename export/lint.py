"""The rules that a version is held to before anybody serves it: docs/lint.md has a section for each.

A rule looks at what a server and its clients will find: the signatures, the graph behind them, and the golden answers.
It needs no TensorFlow, so it judges versions that something else wrote, too.
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
from tfserving.export.servable import MADE_UP
from tfserving.foundation.golden import MANIFEST, GoldenRequest, read_golden, versions_on_disk
from tfserving.foundation.graph import CALLS, Graph, Node
from tfserving.foundation.operations import DOES, FILES, PYTHON, class_of
from tfserving.foundation.served_ops import SERVED_OPS
from tfserving.foundation.tensors import BY_NAME, BY_NUMBER, STRING, dtype_of

# By their name in TensorInfo.
NOT_DENSE = {"coo_sparse": "a sparse tensor", "composite_tensor": "a ragged or other composite tensor"}
# JSON has no values of these types, and TensorFlow Serving makes none up: an input is refused with 501, an output with
# 400 (tensorflow/serving, util/json_tensor.cc).
NOT_IN_JSON = ("bfloat16", "complex64", "complex128", "float16")
NOT_FROM_JSON = (*NOT_IN_JSON, "uint16")
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
    """What is wrong with `signatures` by themselves, and against those of the version before.

    Those that are `unbatched` have no batch, whose price is noted.
    """
    if not signatures:
        return [
            Finding(
                "no-signature",
                "the SavedModel",
                "it has no signature, so there is nothing to ask it (a Keras model that was never called is saved so)",
                "build the model, and export it with named signatures",
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
            "clients of the version before would fail; keep the signature as it was and add another, or say --breaking",
        )
        for change in signature_changes(previous or {}, signatures)
        if change.breaking
    ]


def lint_graph(graph: Graph, signatures: Mapping[str, ServedSignature]) -> list[Finding]:
    """What is wrong with what the `signatures` of a SavedModel do."""
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


def lint_answers(requests: Iterable[GoldenRequest]) -> list[Finding]:
    """What is wrong with golden answers: strings that are no text under a name that says they are."""
    found: dict[tuple[str, str], Finding] = {}
    for request in requests:
        for name, array in request.outputs.items() if request.method == "predict" else ():
            if dtype_of(array) is STRING and not name.endswith("_bytes"):
                other = next((value for value in array.ravel().tolist() if not _is_text(value)), None)
                if other is not None:
                    found.setdefault(
                        (request.signature, name),
                        _bytes_suffix(request.signature, name, f"it answered {other[:20]!r}, which is not UTF-8"),
                    )
    return list(found.values())


def lint_version(folder: Path) -> list[Finding]:
    """Everything that is wrong with the SavedModel in `folder`, compared with the version before it beside it.

    One that no builder made is judged as it is when it is exported as it is: what only its clients feel is a note.
    Raises ExportError when there is none that can be read, and GoldenError when its golden requests are damaged.
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
        *lint_answers(golden.requests if golden else ()),
    ]
    return of_adopted(found) if adopted else found


def previous_version(folder: Path) -> Path | None:
    """The version next below `folder`, a version's; None when `folder` is no version, or the first."""
    if not folder.name.isdecimal():
        return None
    lower = [version for version in versions_on_disk(folder.parent) if version < int(folder.name)]
    return folder.parent / str(max(lower)) if lower else None


def _tensors(name: str, signature: ServedSignature) -> Iterator[Finding]:
    """What is wrong with the names, dtypes and shapes of a signature."""
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for key, spec in specs.items():
            where = f"signature {name!r}, {kind} {key!r}"
            if MADE_UP.fullmatch(key):
                yield Finding(
                    "made-up-name",
                    where,
                    "this name was made up because nobody chose one",
                    "choose one that says what it is",
                )
            if spec.dtype in (NOT_FROM_JSON if kind == "input" else NOT_IN_JSON):
                yield Finding(
                    "rest-dtype",
                    where,
                    f"JSON can't carry {spec.dtype}, REST requests fail",
                    "cast it to float32 in the signature" if spec.dtype != "uint16" else "declare it int32",
                )


def _batches(name: str, signature: ServedSignature, *, unbatched: bool) -> Iterator[Finding]:
    """What is wrong with the batch of a signature's inputs and outputs, or what it costs that it has none."""
    # What is no tensor has no shape here, and is found by itself.
    inputs, outputs = (
        {key: spec for key, spec in specs.items() if spec.dtype in BY_NAME}
        for specs in (signature.inputs, signature.outputs)
    )
    if unbatched:
        yield Finding(
            "unbatched",
            f"signature {name!r}",
            "it takes one example a request",
            "each request is a run of its own: no server puts several together, and TensorFlow Serving with batching "
            "refuses them",
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
                f"its shape {spec.shape} fixes the batch, the first dimension",
                f"{(None, *spec.shape[1:])} takes any; where it is no batch at all, declare the signature with "
                "batched=False",
            )
    for key, spec in outputs.items() if not fixed else ():
        if spec.shape is not None and spec.shape[:1] != (None,):
            yield Finding(
                "output-batch",
                f"signature {name!r}, output {key!r}",
                f"its shape {spec.shape} does not have the batch, None, as its first dimension",
                "answer a row for each row (does the function reshape to a fixed size, or answer something that no row "
                "has?), or declare the signature with batched=False",
            )


def not_servable(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:
    """What no request to the signature called `name` could carry, and no response."""
    definition = graph.signatures[name]
    for kind, infos in (("input", definition.inputs), ("output", definition.outputs)):
        if not infos:
            yield Finding(
                "not-servable",
                f"signature {name!r}",
                f"it has no {kind}s",
                "give it some, or leave it out",
            )
        for key, info in sorted(infos.items()):
            what = NOT_DENSE.get(info.WhichOneof("encoding"))
            if what is None and info.dtype not in BY_NUMBER:
                what = f"of {getattr(signature, f'{kind}s')[key].dtype}, which no client can send or read"
            if what:
                yield Finding(
                    "not-servable",
                    f"signature {name!r}, {kind} {key!r}",
                    f"it is {what}; requests and responses carry dense tensors",
                    "take or return its parts, each by a name of its own (values and row lengths, say)",
                )


def _effects(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:  # noqa: ARG001
    return written_effects(name, graph)


def _int_inputs(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:
    for key, spec in signature.inputs.items():
        if "int" not in spec.dtype:
            continue
        consumers = graph.consumers(graph.signatures[name].inputs[key].name)
        if consumers and all(node.op == "Cast" and node.message.attr["DstT"].type in FLOATS for node in consumers):
            yield Finding(
                "int-input",
                f"signature {name!r}, input {key!r}",
                f"it is {spec.dtype}, the graph only makes a float of it, and REST refuses 1.5 or 1.0 for it",
                "declare it float32",
            )


def _bytes_outputs(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:
    for key, spec in signature.outputs.items() if signature.method == "predict" else ():
        if spec.dtype == "string" and not key.endswith("_bytes"):
            node = graph.producer(graph.signatures[name].outputs[key].name)
            if node is not None and node.op in MAKE_BYTES:
                yield _bytes_suffix(name, key, f"{node} makes it")


def _bytes_suffix(signature: str, output: str, why: str) -> Finding:
    return Finding(
        "bytes-suffix",
        f"signature {signature!r}, output {output!r}",
        f"it holds bytes, not text ({why}), and REST sends base64 only when the name ends in _bytes",
        f"call it {output + '_bytes'!r}",
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
                "python-op", where, f"{node} calls Python, and a server has none", "write it with TensorFlow operations"
            )
        elif DOES.get(kind) == DOES[FILES]:
            yield Finding(
                "file-op",
                where,
                f"{node} reads or writes files of the server's when it is asked",
                "take the contents as an input, or keep them in a variable or table",
            )
        elif op not in CALLS and not op.startswith("_") and not graph.is_function(op) and not _is_served(op):
            yield Finding(
                "unregistered-op",
                where,
                f"{node} is an operation that TensorFlow Serving does not have",
                "write it with TensorFlow operations, or serve it with a build that has it",
            )


def _unchecked_ranks(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:
    for key, spec in signature.inputs.items():
        if nodes := trusting(graph, graph.signatures[name].inputs[key].name):
            more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
            yield Finding(
                "unchecked-rank",
                f"signature {name!r}, input {key!r}",
                f"nothing checks its rank before {nodes[0]}{more}: a tensor of another rank there ends the server",
                "declare its rank" if spec.shape is None else "export it with this toolkit, which checks every input",
            )


def _unrestored(name: str, graph: Graph, signature: ServedSignature) -> Iterator[Finding]:  # noqa: ARG001
    if lost := graph.unrestored(name):
        yield Finding(
            "untracked-variable",
            f"signature {name!r}",
            f"it uses the variables {', '.join(lost)}, which get no value when the version is loaded",
            "make them attributes of the module that is exported",
        )


def _is_served(op: str) -> bool:
    return op in SERVED_OPS or op in _registered()


@lru_cache
def _registered() -> frozenset[str]:
    """TensorFlow's own operations, those in `tf.raw_ops`: its file is read in a hundredth of an import's time."""
    spec = find_spec("tensorflow")
    assert spec is not None
    assert spec.origin is not None
    raw_ops = Path(spec.origin).parent / "_api/v2/raw_ops/__init__.py"
    return frozenset(re.findall(r" import (\w+)", raw_ops.read_text()))


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
