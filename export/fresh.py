"""Answers a version's golden requests in a process that has none of the model's code.

Run by path, `python -I fresh.py DESCRIPTORS`: the current folder and the environment's paths are not looked at for
modules, and Keras and this toolkit, which may be installed, are refused. TensorFlow is imported at once and tried on a
small model, so that nothing is left to be set up when the first order comes.

Orders come on stdin, answers go to stdout, in their order; a message is its length, 8 bytes, and then the message:

    {"load": folder, "ways": […], "refused": […], "libraries": […]}
                                                   loads a version in those ways, forgetting what was loaded before,
                                                   refuses more packages, and registers the operations of libraries;
                                                   for each way the answer is the signatures as JSON,
                                                   {signature: {"inputs", "outputs": {name: [dtype, shape or null]}}}
    a PredictionLog                                asks its request; an answer for each way, a PredictResponse

An answer begins with a byte: "A" for an answer, "E" when what follows is the text of an error. When stdin ends the
process does. DESCRIPTORS is a file with the descriptors of TensorFlow Serving's messages.
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

# Answers a signature's inputs, by name, with its outputs.
Ask = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
# An answer's kind, and the answer.
Message = tuple[bytes, bytes]
# How a version can be run: through the functions that TensorFlow 2 restores, and through a session over the graph, as
# TensorFlow Serving does. They read different parts of the SavedModel, and one can be right where the other is wrong.
WAYS = ("function", "session")
# What a server does not have either. Without Keras TensorFlow is imported in less than half the time.
REFUSED = ("keras", "tf_keras", "tfserving")
ERROR_LINES = 8
KINDS = ("inputs", "outputs")
LENGTH = struct.Struct("<Q")
# Where oneDNN is used TensorFlow keeps what was freed, a model's size of it, for the device that it was allocated for;
# a second load, in a session, would not get it (tensorflow/core/util/onednn_env_vars.h).
SYSTEM_ALLOCATOR = ("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
ANSWER, ERROR = b"A", b"E"


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
    # What anything prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.environ.setdefault(*SYSTEM_ALLOCATOR)
    # Until all is imported, the collector would find nothing to free.
    gc.disable()
    import tensorflow as tf

    gc.enable()
    # Functions run the graph as it was written. Sessions run it as servers do, see `_load_session`.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    prediction_log, response = _messages(Path(sys.argv[1]))
    _practise()
    # What is there now stays; looking through it for garbage takes longer than an answer.
    gc.collect()
    gc.freeze()
    # Each way at its own pace: a function is loaded by Python, a session by C++, and most of the time that a first
    # answer takes is not Python's either.
    workers = {way: ThreadPoolExecutor(1) for way in WAYS}
    loaded: dict[str, Ask] = {}
    ways: list[str] = []
    pending: queue.SimpleQueue[list[Future[Message]] | None] = queue.SimpleQueue()
    writer = threading.Thread(target=_write, args=(answers, pending))
    writer.start()
    for order in _read_orders(sys.stdin.buffer):
        if not order.startswith(b"{"):
            request = _read_request(prediction_log.FromString(order))
            pending.put([workers[way].submit(_answer, way, loaded, request, response()) for way in ways])
            continue
        job = json.loads(order)
        ways = job["ways"]
        refusal.packages.update(job["refused"])
        for library in job["libraries"]:
            tf.load_op_library(library)
        for worker in workers.values():
            worker.submit(int).result()
        if loaded:
            # A session's graph and its functions know each other; their variables go when both do.
            loaded.clear()
            gc.collect()
        loads = [workers[way].submit(_load_or_tell, way, job["load"], loaded) for way in ways]
        pending.put(loads)
    pending.put(None)
    writer.join()


def _load_or_tell(way: str, folder: str, loaded: dict[str, Ask]) -> Message:
    try:
        loaded[way], signatures = LOAD[way](folder)
    except Exception as error:
        return ERROR, _shortened(error).encode()
    return ANSWER, json.dumps(signatures).encode()


def _answer(way: str, loaded: Mapping[str, Ask], request: tuple[str, dict[str, Any]], response: Any) -> Message:
    import tensorflow as tf

    try:
        for name, tensor in loaded[way](*request).items():
            response.outputs[name].ParseFromString(tf.io.serialize_tensor(tensor).numpy())
    except Exception as error:
        return ERROR, f"as a {way}: {_shortened(error)}".encode()
    return ANSWER, response.SerializeToString()


def _practise() -> None:
    """Saves, loads and runs a small model of the usual layers: TensorFlow does much of its setting up only then.

    Its oneDNN kernels do some more when they are first given several rows.
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
        # Python, too, is quicker at what it has done a few times.
        for load in 3 * list(LOAD.values()):
            ask, _ = load(folder)
            for rows in (1, 2):
                for tensor in ask("practice", {"image": tf.ones((rows, 4, 4, 1))}).values():
                    tf.io.serialize_tensor(tensor).numpy()


def _load_function(folder: str) -> tuple[Ask, dict[str, Any]]:
    import tensorflow as tf

    restored = tf.saved_model.load(folder)
    definitions = _definitions(folder)
    defaults = _defaults(definitions)
    names = {name: _names(function, definitions[name].inputs) for name, function in restored.signatures.items()}

    # The signatures know the object that has the variables only weakly.
    def ask(signature: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        values = {**defaults[signature], **inputs}
        given = {keyword: values[name] for keyword, name in names[signature].items() if name in values}
        return restored.signatures[signature](**given)  # type: ignore[no-any-return]

    return ask, {name: _described(function, names[name]) for name, function in restored.signatures.items()}


def _names(function: Any, inputs: Iterable[str]) -> dict[str, str]:
    """What the `inputs` of a signature are called, by the keywords of its function: none of these can be `self`."""
    _, keywords = function.structured_input_signature
    others = [name for name in inputs if name not in keywords]
    return {
        keyword: keyword if keyword in inputs else others.pop() for keyword in keywords if keyword in inputs or others
    }


def _load_session(folder: str) -> tuple[Ask, dict[str, Any]]:
    import tensorflow as tf

    # A session without a configuration of its own gets that of the functions, without Grappler. TensorFlow Serving's
    # has only numbers of threads in it, unless it is given another:
    # https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/model_servers/server.cc
    session = tf.compat.v1.Session(graph=tf.Graph(), config=tf.compat.v1.ConfigProto())
    signatures = tf.compat.v1.saved_model.load(session, ["serve"], folder).signature_def
    defaults = _defaults(_definitions(folder))

    def ask(signature: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        definition = signatures[signature]
        values = {**defaults[signature], **inputs}
        feeds = {definition.inputs[name].name: tensor.numpy() for name, tensor in values.items()}
        answers = session.run({name: info.name for name, info in definition.outputs.items()}, feeds)
        return {name: tf.constant(value, definition.outputs[name].dtype) for name, value in answers.items()}

    return ask, {
        name: {kind: {key: _described_info(info) for key, info in getattr(signature, kind).items()} for kind in KINDS}
        for name, signature in signatures.items()
        if signature.method_name
    }


def _definitions(folder: str) -> dict[str, Any]:
    """The signatures as a server reads them, by name."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString(Path(folder, "saved_model.pb").read_bytes())
    return {name: signature for graph in saved.meta_graphs for name, signature in graph.signature_def.items()}


def _defaults(definitions: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By signature the values of inputs that a request may leave out."""
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
    # A ragged tensor has no dtype here.
    return [tf.as_dtype(info.dtype).name if info.dtype else "", None if shape.rank is None else shape.as_list()]


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


def _shortened(error: Exception) -> str:
    """The error without the middle of TensorFlow's list of source lines."""
    lines = [line for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    if len(lines) > ERROR_LINES:
        lines[ERROR_LINES // 2 : -ERROR_LINES // 2] = ["..."]
    return "\n".join(lines)


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


def _read_orders(stream: BinaryIO) -> Iterator[bytes]:
    while len(length := stream.read(LENGTH.size)) == LENGTH.size:
        yield stream.read(*LENGTH.unpack(length))


def _write(stream: BinaryIO, pending: queue.SimpleQueue[list[Future[Message]] | None]) -> None:
    """Writes the answers in the order of their requests."""
    while (answers := pending.get()) is not None:
        for kind, message in (answer.result() for answer in answers):
            stream.write(LENGTH.pack(len(message) + 1) + kind + message)
            stream.flush()


LOAD = {"function": _load_function, "session": _load_session}


if __name__ == "__main__":
    main()
    # Everything was answered, and taking TensorFlow apart would take longer than all the answers did.
    os._exit(0)
