"""Answers a version's golden requests in a process that has none of the model's code.

Run by path, `python -I fresh.py`: the current folder and the environment's paths are not looked at for modules, and
Keras and this toolkit, which may be installed, are refused. TensorFlow is imported at once, so that it is there when
one line of JSON comes on stdin:

    version      the version's folder
    golden       its golden requests
    descriptors  descriptors of TensorFlow Serving's messages
    refused      more packages that can't be imported from now on
    answers      the folder to write: for each way of WAYS a TFRecord of PredictResponse, the answers to the golden
                 requests in their order
    signatures   the file to write: JSON, {signature: {"inputs" and "outputs": {name: [dtype, shape or null]}}}

When stdin ends without such a line the parent is gone, and the process ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

# Answers a signature's inputs, by name, with its outputs.
Ask = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
# How a version can be run: through the functions that TensorFlow 2 restores, and through a session over the graph, as
# TensorFlow Serving does. They read different parts of the SavedModel, and one can be right where the other is wrong.
WAYS = ("function", "session")
# What a server does not have either. Without Keras TensorFlow is imported in less than half the time.
REFUSED = ("clients", "export", "k8s", "keras", "serving", "tests", "tf_keras")
ERROR_LINES = 8


class Refusal:
    """An import hook that finds every module of some packages, and then refuses to import it.

    TensorFlow looks whether there is a Keras before it imports it, and does without when that fails.
    """

    def __init__(self, packages: Iterable[str]) -> None:
        self.packages = set(packages)

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """A spec for what is refused, None for what isn't."""
        return ModuleSpec(name, self) if name.partition(".")[0] in self.packages else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Raises ImportError."""
        raise ImportError(f"{spec.name} can't be imported here: what is served may not need it", name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Never called, but a loader has it."""


def main() -> None:
    """Does what the module's docstring says."""
    refusal = Refusal(REFUSED)
    sys.meta_path.insert(0, refusal)
    import tensorflow as tf

    line = sys.stdin.readline()
    if not line:
        return
    job = json.loads(line)
    refusal.packages.update(job["refused"])
    restored = tf.saved_model.load(job["version"]).signatures
    Path(job["signatures"]).write_text(json.dumps({name: _described(restored[name]) for name in restored}))
    prediction_log, response = _messages(Path(job["descriptors"]))
    requests = [
        _read_request(prediction_log.FromString(record))
        for record in tf.data.TFRecordDataset(job["golden"]).as_numpy_iterator()
    ]
    for way, ask in zip(WAYS, (_ask_function(restored), _ask_session(job["version"])), strict=True):
        with tf.io.TFRecordWriter(str(Path(job["answers"], way))) as answers:
            for number, (signature, inputs) in enumerate(requests):
                try:
                    outputs = ask(signature, inputs)
                except Exception as error:
                    raise SystemExit(
                        f"signature {signature!r}, golden request {number}, as a {way}: {_shortened(error)}"
                    ) from None
                answer = response()
                for name, tensor in outputs.items():
                    answer.outputs[name].ParseFromString(tf.io.serialize_tensor(tensor).numpy())
                answers.write(answer.SerializeToString())


def _read_request(log: Any) -> tuple[str, dict[str, Any]]:
    """The signature and the inputs of a golden request; one to classify or to regress has the input `inputs`."""
    import tensorflow as tf

    request = getattr(log, log.WhichOneof("log_type")).request
    signature = request.model_spec.signature_name
    if log.WhichOneof("log_type") != "predict_log":
        examples = [example.SerializeToString() for example in request.input.example_list.examples]
        return signature, {"inputs": tf.constant(examples, tf.string)}
    return signature, {
        name: tf.io.parse_tensor(tensor.SerializeToString(), tf.as_dtype(tensor.dtype))
        for name, tensor in request.inputs.items()
    }


def _ask_function(restored: Any) -> Ask:
    return lambda signature, inputs: restored[signature](**inputs)


def _ask_session(version: str) -> Ask:
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    signatures = tf.compat.v1.saved_model.load(session, ["serve"], version).signature_def

    def ask(signature: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        definition = signatures[signature]
        feeds = {definition.inputs[name].name: tensor.numpy() for name, tensor in inputs.items()}
        values = session.run({name: info.name for name, info in definition.outputs.items()}, feeds)
        return {name: tf.constant(value, definition.outputs[name].dtype) for name, value in values.items()}

    return ask


def _shortened(error: Exception) -> str:
    """The error without the middle of TensorFlow's list of source lines."""
    lines = [line for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    if len(lines) > ERROR_LINES:
        lines[ERROR_LINES // 2 : -ERROR_LINES // 2] = ["..."]
    return "\n".join(lines)


def _described(function: Any) -> dict[str, dict[str, Any]]:
    _, inputs = function.structured_input_signature
    return {
        kind: {
            name: [spec.dtype.name, None if spec.shape.rank is None else spec.shape.as_list()]
            for name, spec in specs.items()
        }
        for kind, specs in (("inputs", inputs), ("outputs", function.structured_outputs))
    }


def _messages(descriptors: Path) -> tuple[Any, Any]:
    """PredictionLog and PredictResponse, from a pool of their own: TensorFlow has some of the same messages."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(descriptors.read_bytes()).file:
        pool.Add(file)
    log, response = (
        GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))
        for name in ("PredictionLog", "PredictResponse")
    )
    return log, response


if __name__ == "__main__":
    main()
    # Everything is written, and taking TensorFlow apart would take longer than all the answers did.
    os._exit(0)
