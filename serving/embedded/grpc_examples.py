"""What the gRPC methods of classify, regress and multi-inference answer: messages in, bytes out."""

from __future__ import annotations

import struct
from typing import Any

from clients.messages import ClassificationResponse, ModelSpec, MultiInferenceResponse, RegressionResponse
from clients.tensors import Array
from serving.embedded.errors import Code, RequestError
from serving.embedded.examples import CLASSIFY, REGRESS, Classifications, Task, find_signature, make_task, run
from serving.embedded.grpc_answers import fill_spec, model_spec, read_spec
from serving.embedded.inference import acquire
from serving.embedded.loader import Servable
from serving.embedded.served import Served
from serving.embedded.signature import DEFAULT_SIGNATURE, Signature
from serving.embedded.tensor_proto import field


def answer_classify(served: Served, request: Any) -> bytes:
    """A ClassificationResponse to a ClassificationRequest."""
    response = ClassificationResponse()
    result = _answer(served, request, CLASSIFY, response)
    assert isinstance(result, Classifications)
    if result.labels is None or all(_is_text(label) for label in result.labels.ravel().tolist()):
        return response.SerializeToString()  # type: ignore[no-any-return]
    return _with_raw_labels(result, response)


def answer_regress(served: Served, request: Any) -> bytes:
    """A RegressionResponse to a RegressionRequest."""
    response = RegressionResponse()
    _answer(served, request, REGRESS, response)
    return response.SerializeToString()  # type: ignore[no-any-return]


def answer_multi_inference(served: Served, request: Any) -> bytes:
    """A MultiInferenceResponse to a MultiInferenceRequest: several signatures of one model, on the same examples."""
    first = request.tasks[0].model_spec if request.tasks else ModelSpec()
    with acquire(served, read_spec(first)) as servable:
        response = MultiInferenceResponse()
        for task, result in infer_all(servable, request):
            entry = response.results.add()
            fill_spec(entry.model_spec, servable.model, servable.version, task.signature.name)
            write_result(entry.classification_result if task.method == CLASSIFY else entry.regression_result, result)
        return response.SerializeToString()  # type: ignore[no-any-return]


def infer(servable: Servable, request: Any, method: str) -> tuple[Signature, Classifications | Array]:
    """What the signature that a ClassificationRequest or RegressionRequest names answers to its examples.

    Raises RequestError for a signature that can't be asked as `method`, and for examples it can't take.
    """
    signature = find_signature(servable, request.model_spec.signature_name or DEFAULT_SIGNATURE)
    (result,) = run(servable, [make_task(servable, signature, method)], read_examples(request.input))
    return signature, result


def infer_all(servable: Servable, request: Any) -> list[tuple[Task, Classifications | Array]]:
    """The tasks of a MultiInferenceRequest with what each answers. Raises RequestError as `infer` does."""
    tasks: list[Task] = []
    for asked in request.tasks:
        tasks.append(_task(servable, asked, request.tasks[0].model_spec.name, tasks))
    return list(zip(tasks, run(servable, tasks, read_examples(request.input)), strict=True))


def read_examples(sent: Any) -> list[bytes]:
    """The serialized tf.Examples of an Input; a context is merged into each, whose own features win."""
    if sent.WhichOneof("kind") == "example_list_with_context":
        context = sent.example_list_with_context.context.SerializeToString()
        # Messages that follow each other in the same bytes are merged.
        return [context + example.SerializeToString() for example in sent.example_list_with_context.examples]
    return [example.SerializeToString() for example in sent.example_list.examples]


def _answer(served: Served, request: Any, method: str, response: Any) -> Classifications | Array:
    """Answers a request of one signature on tf.Examples; returns what the signature answered."""
    with acquire(served, model_spec(request)) as servable:
        signature, result = infer(servable, request, method)
        write_result(response.result, result)
        fill_spec(response.model_spec, servable.model, servable.version, signature.name)
        return result


def _task(servable: Servable, asked: Any, model: str, before: list[Task]) -> Task:
    """The task that an InferenceTask asks for, `before` being those that stand before it."""
    if not asked.model_spec.name:
        raise RequestError(Code.INVALID_ARGUMENT, "Found ModelSpec with an empty model name.")
    if asked.model_spec.name != model:
        text = "All ModelSpecs in a MultiInferenceRequest must access the same model name."
        raise RequestError(Code.INVALID_ARGUMENT, text)
    name = asked.model_spec.signature_name or DEFAULT_SIGNATURE
    if any(task.signature.name == name for task in before):
        raise RequestError(Code.INVALID_ARGUMENT, f"Duplicate evaluation of signature: {name}")
    signature = servable.signatures.get(name)
    if signature is None:
        text = f"Requested signature not found in model graph: {name}"
        raise RequestError(Code.INVALID_ARGUMENT, text, servable.has_signatures())
    if asked.method_name not in (CLASSIFY, REGRESS):
        text = f"Unsupported signature method_name: {asked.method_name}"
        raise RequestError(Code.UNIMPLEMENTED, text, f"{CLASSIFY} and {REGRESS} are supported")
    task = make_task(servable, signature, asked.method_name)
    if before and task.feed != before[0].feed:
        text = f"Input tensor must be the same for all Signatures. {before[0].feed}, {task.feed}"
        raise RequestError(Code.INVALID_ARGUMENT, text)
    return task


def write_result(message: Any, result: Classifications | Array) -> None:
    """Writes `result` into a ClassificationResult or RegressionResult."""
    message.SetInParent()
    if not isinstance(result, Classifications):
        for value in result.tolist():
            message.regressions.add(value=value)
        return
    for classes in result.rows():
        entry = message.classifications.add()
        for label, score in classes:
            entry.classes.add(label=label.decode(errors="replace"), score=score)


def _with_raw_labels(result: Classifications, response: Any) -> bytes:
    """The ClassificationResponse `response` with the labels of `result` as they are, whether they are UTF-8 or not.

    So the real server sends them; protobuf's Python refuses to write and to read such strings, other languages' don't.
    """
    rows = (
        b"".join(
            field(1, (field(1, label) if label else b"") + (b"\x15" + struct.pack("<f", score) if score else b""))
            for label, score in row
        )
        for row in result.rows()
    )
    return field(1, b"".join(field(1, row) for row in rows)) + field(2, response.model_spec.SerializeToString())


def _is_text(label: bytes) -> bool:
    try:
        label.decode()
    except UnicodeDecodeError:
        return False
    return True
