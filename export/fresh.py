"""Runs a version's golden requests in a process that has none of the model's code.

Run by path, `python -I fresh.py DESCRIPTORS`: no module is imported from the working folder or from the environment's
paths, and imports of Keras and of this toolkit, which may be installed, fail. TensorFlow is imported at once and runs a
small model, so that it is fully set up when the first command arrives.

Commands arrive on stdin, responses go to stdout in the same order. A message is its length, 8 bytes, then its content:

    {"load": folder, "ways": […], "refused": […], "libraries": […]}
                                                   loads a version in those ways and unloads the previous one, refuses
                                                   imports of more packages, and registers the operations of libraries;
                                                   the response for each way is the signatures as JSON,
                                                   {signature: {"inputs", "outputs": {name: [dtype, shape or null]}}}
    {"gpus": true}                                 the response is the names of the GPUs, as JSON
    a PredictionLog                                runs its request; the response for each way is a PredictResponse

A response begins with a byte: "R" for a result, "E" for the text of an error. The process exits when stdin ends.
DESCRIPTORS is a file with the descriptors of TensorFlow Serving's messages.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

# Runs a signature with its inputs by name, and returns its outputs.
Run = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
# The kind of a response, and its content.
Message = tuple[bytes, bytes]
# How a version can be run: through the functions that TensorFlow 2 restores, and through a session over the graph, as
# TensorFlow Serving does. They read different parts of the SavedModel, so one can be right where the other is wrong.
WAYS = ("function", "session")
# A server has none of these either. Without Keras, TensorFlow is imported in less than half the time.
REFUSED = ("keras", "tf_keras", "tfserving")
ERROR_LINES = 8
KINDS = ("inputs", "outputs")
LENGTH = struct.Struct("<Q")
# With oneDNN, TensorFlow keeps freed memory, as much as a model has, for the device that allocated it. A second load,
# in a session, could not use it (tensorflow/core/util/onednn_env_vars.h).
SYSTEM_ALLOCATOR = ("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
RESULT, ERROR = b"R", b"E"


class Refusal:
    """An import hook that finds every module of some packages, and then refuses to import it.

    TensorFlow checks that Keras exists before it imports it, and continues without it when the import fails.
    """

    def __init__(self, packages: Iterable[str]) -> None:
        self.packages = set(packages)

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """Return a spec for a module that is refused, None for any other."""
        return ModuleSpec(name, self) if name.partition(".")[0] in self.packages else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Raise ImportError."""
        raise ImportError(f"{spec.name} can't be imported here: a served model must not need it", name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it is never called, but a loader must have it."""


def main() -> None:
    """Run the loop that the module's docstring describes."""
    refusal = Refusal(REFUSED)
    sys.meta_path.insert(0, refusal)
    # Anything that is printed must not get between the responses.
    responses = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.environ.setdefault(*SYSTEM_ALLOCATOR)
    # Until everything is imported, the garbage collector would find nothing to free.
    gc.disable()
    import tensorflow as tf

    gc.enable()
    # The exporter sets it in the environment, for NVIDIA's libraries.
    tf.config.experimental.enable_tensor_float_32_execution(os.environ.get("NVIDIA_TF32_OVERRIDE") != "0")
    # Functions run the graph as it was written. Sessions run it as servers do; see `_load_session`.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    prediction_log, response = _messages(Path(sys.argv[1]))
    _practise()
    # The present objects stay. Searching them for garbage takes longer than a request.
    gc.collect()
    gc.freeze()
    # Each way has a thread: a function is loaded by Python, a session by C++, and most of the time of a first request
    # is not spent in Python either.
    workers = {way: ThreadPoolExecutor(1) for way in WAYS}
    loaded: dict[str, Run] = {}
    ways: list[str] = []
    pending: queue.SimpleQueue[list[Future[Message]] | None] = queue.SimpleQueue()
    writer = threading.Thread(target=_write, args=(responses, pending))
    writer.start()
    for order in _read_orders(sys.stdin.buffer):
        if not order.startswith(b"{"):
            request = _read_request(prediction_log.FromString(order))
            pending.put([workers[way].submit(_run, way, loaded, request, response()) for way in ways])
            continue
        job = json.loads(order)
        if "gpus" in job:
            pending.put([workers["session"].submit(_gpus)])
            continue
        ways = job["ways"]
        refusal.packages.update(job["refused"])
        for library in job["libraries"]:
            tf.load_op_library(library)
        for worker in workers.values():
            worker.submit(int).result()
        if loaded:
            # The graph of a session and its functions refer to each other; their variables are freed with both.
            loaded.clear()
            gc.collect()
        loads = [workers[way].submit(_load, way, job["load"], loaded) for way in ways]
        pending.put(loads)
    pending.put(None)
    writer.join()


def _gpus() -> Message:
    import tensorflow as tf

    try:
        details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
        return RESULT, json.dumps([one.get("device_name", "GPU") for one in details]).encode()
    except Exception as error:
        return ERROR, _shortened(error).encode()


def _load(way: str, folder: str, loaded: dict[str, Run]) -> Message:
    try:
        loaded[way], signatures = LOAD[way](folder)
    except Exception as error:
        return ERROR, _shortened(error).encode()
    return RESULT, json.dumps(signatures).encode()


def _run(way: str, loaded: Mapping[str, Run], request: tuple[str, dict[str, Any]], response: Any) -> Message:
    import tensorflow as tf

    try:
        for name, tensor in loaded[way](*request).items():
            response.outputs[name].ParseFromString(tf.io.serialize_tensor(tensor).numpy())
    except Exception as error:
        return ERROR, f"as a {way}: {_shortened(error)}".encode()
    return RESULT, response.SerializeToString()


def _practise() -> None:
    """Save, load and run a small model of common layers: TensorFlow does much of its setup only then.

    Its oneDNN kernels do more setup when they first run several rows.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        module = tf.Module()
        module.kernel = tf.Variable(tf.ones((3, 3, 1, 4)))
        module.weights = tf.Variable(tf.ones((16, 4)))
        module.bias = tf.Variable(tf.ones(4))

        def practice(image: Any) -> dict[str, Any]:
            maps = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(image, module.kernel, 1, "SAME"), module.bias))
            row = tf.reshape(tf.nn.max_pool2d(maps, 2, 2, "VALID"), (-1, 16))
            scores = tf.nn.softmax(tf.nn.bias_add(tf.matmul(row, module.weights), module.bias))
            return {"scores": scores, "label": tf.argmax(scores, axis=1)}

        function = tf.function(practice, input_signature=[tf.TensorSpec((None, 4, 4, 1), tf.float32, name="image")])
        tf.saved_model.save(module, folder, signatures={"practice": function.get_concrete_function()})
        # Python is also quicker after a few repetitions.
        for load in 3 * list(LOAD.values()):
            run, _ = load(folder)
            for rows in (1, 2):
                for tensor in run("practice", {"image": tf.ones((rows, 4, 4, 1))}).values():
                    tf.io.serialize_tensor(tensor).numpy()


def _load_function(folder: str) -> tuple[Run, dict[str, Any]]:
    import tensorflow as tf

    restored = tf.saved_model.load(folder)
    definitions = _definitions(folder)
    defaults = _defaults(definitions)
    names = {name: _names(function, definitions[name].inputs) for name, function in restored.signatures.items()}

    # The signatures hold weak references to the object with the variables. This function keeps it alive.
    def run(signature: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        values = {**defaults[signature], **inputs}
        given = {keyword: values[name] for keyword, name in names[signature].items() if name in values}
        return restored.signatures[signature](**given)  # type: ignore[no-any-return]

    return run, {name: _described(function, names[name]) for name, function in restored.signatures.items()}


def _names(function: Any, inputs: Iterable[str]) -> dict[str, str]:
    """Return the names of a signature's `inputs` by the keywords of its function, none of which can be `self`."""
    _, keywords = function.structured_input_signature
    others = [name for name in inputs if name not in keywords]
    return {
        keyword: keyword if keyword in inputs else others.pop() for keyword in keywords if keyword in inputs or others
    }


def _load_session(folder: str) -> tuple[Run, dict[str, Any]]:
    import tensorflow as tf

    # A session without a configuration of its own gets that of the functions, without Grappler. The configuration of
    # TensorFlow Serving contains only numbers of threads by default:
    # https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/model_servers/server.cc
    session = tf.compat.v1.Session(graph=tf.Graph(), config=tf.compat.v1.ConfigProto())
    signatures = tf.compat.v1.saved_model.load(session, ["serve"], folder).signature_def
    defaults = _defaults(_definitions(folder))

    def run(signature: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        definition = signatures[signature]
        values = {**defaults[signature], **inputs}
        feeds = {definition.inputs[name].name: tensor.numpy() for name, tensor in values.items()}
        outputs = session.run({name: info.name for name, info in definition.outputs.items()}, feeds)
        return {name: tf.constant(value, definition.outputs[name].dtype) for name, value in outputs.items()}

    return run, {
        name: {kind: {key: _described_info(info) for key, info in getattr(signature, kind).items()} for kind in KINDS}
        for name, signature in signatures.items()
        if signature.method_name
    }


def _definitions(folder: str) -> dict[str, Any]:
    """Return the signatures as a server reads them, by name."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString(Path(folder, "saved_model.pb").read_bytes())
    return {name: signature for graph in saved.meta_graphs for name, signature in graph.signature_def.items()}


def _defaults(definitions: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by signature the values of inputs that a request may leave out."""
    import tensorflow as tf

    return {
        name: {key: tf.constant(tf.make_ndarray(value)) for key, value in signature.defaults.items()}
        for name, signature in definitions.items()
    }


def _described(function: Any, names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    _, inputs = function.structured_input_signature
    inputs = {names.get(keyword, keyword): spec for keyword, spec in inputs.items()}
    return {
        kind: {
            name: [spec.dtype.name, None if spec.shape.rank is None else spec.shape.as_list()]
            for name, spec in specs.items()
        }
        for kind, specs in zip(KINDS, (inputs, function.structured_outputs), strict=True)
    }


def _described_info(info: Any) -> list[Any]:
    import tensorflow as tf

    shape = tf.TensorShape(info.tensor_shape)
    # A ragged tensor has no dtype in this message.
    return [tf.as_dtype(info.dtype).name if info.dtype else "", None if shape.rank is None else shape.as_list()]


def _read_request(log: Any) -> tuple[str, dict[str, Any]]:
    """Return the signature and the inputs of a golden request. A classify or regress request has the input `inputs`."""
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


def _shortened(error: Exception) -> str:
    """Return the error without the middle of TensorFlow's list of source lines."""
    lines = [line for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    if len(lines) > ERROR_LINES:
        lines[ERROR_LINES // 2 : -ERROR_LINES // 2] = ["..."]
    return "\n".join(lines)


def _messages(descriptors: Path) -> tuple[Any, Any]:
    """Return PredictionLog and PredictResponse from a separate pool: TensorFlow defines some of the same messages."""
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


def _read_orders(stream: BinaryIO) -> Iterator[bytes]:
    while len(length := stream.read(LENGTH.size)) == LENGTH.size:
        yield stream.read(*LENGTH.unpack(length))


def _write(stream: BinaryIO, pending: queue.SimpleQueue[list[Future[Message]] | None]) -> None:
    """Write the responses in the order of their requests."""
    while (responses := pending.get()) is not None:
        for kind, message in (response.result() for response in responses):
            stream.write(LENGTH.pack(len(message) + 1) + kind + message)
            stream.flush()


LOAD = {"function": _load_function, "session": _load_session}


if __name__ == "__main__":
    main()
    # All responses were written. Tearing TensorFlow down would take longer than they did.
    os._exit(0)
