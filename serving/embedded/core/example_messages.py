"""Reads, runs and writes TensorFlow Serving's messages of tf.Examples, for gRPC, warm-up and the request log."""

from __future__ import annotations

from typing import Any

from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.examples import (
    CLASSIFY,
    REGRESS,
    Classifications,
    Task,
    find_signature,
    make_task,
    run,
)
from tfserving.serving.embedded.core.loader import Servable
from tfserving.serving.embedded.core.signature import DEFAULT_SIGNATURE, Signature
from tfserving.serving.embedded.errors import Code, RequestError


def infer(servable: Servable, request: Any, method: str) -> tuple[Signature, Classifications | Array]:
    """Runs a ClassificationRequest or RegressionRequest; returns its signature and the result.

    Raises RequestError for a signature that doesn't support `method`, and for examples that it doesn't accept.
    """
    signature = find_signature(servable, request.model_spec.signature_name or DEFAULT_SIGNATURE)
    (result,) = run(servable, [make_task(servable, signature, method)], read_examples(request.input))
    return signature, result


def infer_all(servable: Servable, request: Any) -> list[tuple[Task, Classifications | Array]]:
    """Runs a MultiInferenceRequest; returns its tasks and their results. Raises RequestError as `infer` does."""
    tasks: list[Task] = []
    for wanted in request.tasks:
        tasks.append(_task(servable, wanted, request.tasks[0].model_spec.name, tasks))
    return list(zip(tasks, run(servable, tasks, read_examples(request.input)), strict=True))


def read_examples(sent: Any) -> list[bytes]:
    """Returns the serialized tf.Examples of an Input. A context is merged into each; its own features win."""
    if sent.WhichOneof("kind") == "example_list_with_context":
        context = sent.example_list_with_context.context.SerializeToString()
        # Protobuf merges concatenated messages.
        return [context + example.SerializeToString() for example in sent.example_list_with_context.examples]
    return [example.SerializeToString() for example in sent.example_list.examples]


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


def _task(servable: Servable, wanted: Any, model: str, before: list[Task]) -> Task:
    """Returns the task of an InferenceTask; `before` are the tasks before it."""
    if not wanted.model_spec.name:
        raise RequestError(Code.INVALID_ARGUMENT, "Found ModelSpec with an empty model name.")
    if wanted.model_spec.name != model:
        text = "All ModelSpecs in a MultiInferenceRequest must access the same model name."
        raise RequestError(Code.INVALID_ARGUMENT, text)
    name = wanted.model_spec.signature_name or DEFAULT_SIGNATURE
    if any(task.signature.name == name for task in before):
        raise RequestError(Code.INVALID_ARGUMENT, f"Duplicate evaluation of signature: {name}")
    signature = servable.signatures.get(name)
    if signature is None:
        text = f"Requested signature not found in model graph: {name}"
        raise RequestError(Code.INVALID_ARGUMENT, text, servable.has_signatures())
    if wanted.method_name not in (CLASSIFY, REGRESS):
        text = f"Unsupported signature method_name: {wanted.method_name}"
        raise RequestError(Code.UNIMPLEMENTED, text, f"{CLASSIFY} and {REGRESS} are supported")
    return make_task(servable, signature, wanted.method_name)
