"""The loader: loads a version from its folder as a servable."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import time
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfserving.foundation.golden import MANIFEST
from tfserving.foundation.graph import INIT
from tfserving.foundation.manifest import ManifestError, read_manifest_file
from tfserving.foundation.messages import SignatureDefMap
from tfserving.foundation.served_ops import hint, libraries, libraries_for
from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.batch import Execute
from tfserving.serving.embedded.core.batch_parameters import Parameters
from tfserving.serving.embedded.core.batching import Scheduler
from tfserving.serving.embedded.core.deep import Deep, make_deep_run
from tfserving.serving.embedded.core.pace import Pace
from tfserving.serving.embedded.core.safety import check_operations
from tfserving.serving.embedded.core.session_call import (
    OWN_THREAD,
    Call,
    Ending,
    add_pools,
    guard,
    make_call,
    make_ending_call,
    translate,
)
from tfserving.serving.embedded.core.signature import Signature, read_signature
from tfserving.serving.embedded.core.slots import Slots, has_loops
from tfserving.serving.embedded.core.version_folder import manifest_digest
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.observability import metrics

log = logging.getLogger(__name__)

SERVING_TAGS = ("serve",)
# Clients choose output filters, so the number of distinct calls that a version caches needs a limit.
CALLS_KEPT = 64
# The sets of shapes for which a warm-up runs all batch sizes. Where a length varies, a warm-up can have many.
SHAPES_PLAYED = 16


@dataclass(frozen=True)
class Batching:
    """The scheduler that batches requests, and the one for graphs with loops, which may take long."""

    scheduler: Scheduler
    of_loops: Scheduler
    parameters: Parameters


@dataclass(frozen=True)
class Runtime:
    """How TensorFlow runs a version.

    `intra_op_threads` is the number of threads inside one operation; 0 leaves it to TensorFlow. `inter_op_threads` is
    the number of threads that run operations at the same time. With 0 a request runs in the thread that serves it,
    which takes half the CPU for a small model. With `check_methods` only the method that a signature names can call it.
    With `batching` requests that wait at the same time run as one. `session_config` is a serialized ConfigProto, which
    the settings here override. `tags` select the graph to load. Operations that are not known to be safe must be
    allowed, all of them (`allow_file_and_python_ops`) or by name (`allowed_operations`). With `check_shapes` a tensor
    must have the rank and the known sizes of its signature. Graphs with loops run in `slots`, for at most `longest_run`
    seconds when a request has no deadline; None is no limit.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    check_methods: bool = False
    batching: Batching | None = None
    session_config: bytes = b""
    tags: tuple[str, ...] = SERVING_TAGS
    allow_file_and_python_ops: bool = False
    check_shapes: bool = True
    slots: Slots = field(default_factory=Slots)
    longest_run: float | None = None
    allowed_operations: tuple[str, ...] = ()

    @property
    def may_wait(self) -> bool:
        """Whether operations are allowed that wait for something other than a processor."""
        return self.allow_file_and_python_ops or bool(self.allowed_operations)


class Servable:
    """A loaded version of a model: its signatures, and a session to run them.

    `definitions` is the SignatureDefMap of the signatures.
    """

    def __init__(
        self,
        model: str,
        version: int,
        session: Any,
        definitions: Any,
        runtime: Runtime,
        refused: Mapping[str, str] | None = None,
        *,
        ending: Ending | None = None,
        pool: int = OWN_THREAD,
        unbatched: Collection[str] = (),
    ) -> None:
        """`refused` has the reasons why some signatures must not run, `ending` how runs of a graph with loops end.

        Other graphs run in the session's `pool`. Requests to `unbatched` signatures are never batched.
        """
        self.model = model
        self.version = version
        self.definitions = definitions
        self.check_methods = runtime.check_methods
        self.check_shapes = runtime.check_shapes
        # The digest of the manifest that lay beside the graph when it was loaded; empty when there was none.
        self.manifest = ""
        self._refused = refused or {}
        self._batching = runtime.batching
        self._ending = ending
        self._pool = pool
        self.signatures: Mapping[str, Signature] = {
            name: read_signature(name, definition) for name, definition in definitions.signature_def.items()
        }
        # Only for signatures that compute in the caller's thread, and whose runs end by themselves.
        own = pool == OWN_THREAD and not (ending or runtime.batching or runtime.may_wait)
        self.paces: Mapping[str, Pace] = {name: Pace() for name in self.signatures} if own else {}
        self._session = session
        self._lock = threading.Lock()
        self._calls: dict[tuple[object, ...], Call] = {}
        self._deep: dict[str, Call] = {}
        # Whether the warm-up is complete.
        self._warm = False
        # Only whole signatures are batched, as in TensorFlow Serving's batching session.
        self._batched = {
            (
                tuple(spec.tensor for spec in signature.inputs.values()),
                frozenset(spec.tensor for spec in signature.outputs.values()),
            )
            for signature in self.signatures.values()
            if signature.name not in unbatched and all(spec.shape != () for spec in signature.inputs.values())
        }

    def check_allowed(self, signature: Signature) -> None:
        """Raises RequestError PERMISSION_DENIED when `signature` must not run."""
        if signature.name in self._refused:
            raise RequestError(Code.PERMISSION_DENIED, self._refused[signature.name])

    def run(self, signature: Signature, inputs: Sequence[Array], outputs: tuple[str, ...]) -> list[Array]:
        """Runs `signature` on one array for each input, in order; returns the arrays of `outputs`.

        Raises RequestError with the runtime's code and text.
        """
        if self._refused:
            self.check_allowed(signature)
        if Deep in map(type, inputs):
            values = dict(zip(signature.outputs, self._deep_call(signature)(*inputs), strict=True))
            return [values[name] for name in outputs]
        key = (signature.name, outputs)
        call = self._calls.get(key)
        if call is None:
            feeds = [spec.tensor for spec in signature.inputs.values()]
            call = self._make(key, feeds, [signature.outputs[name].tensor for name in outputs])
        return call(*inputs)

    def run_tensors(self, feeds: Sequence[str], inputs: Sequence[Array], fetches: Sequence[str]) -> list[Array]:
        """Runs the graph on `inputs`, an array for each tensor in `feeds`; returns the tensors in `fetches`.

        Raises RequestError with the runtime's code and text.
        """
        key = (tuple(feeds), tuple(fetches))
        return (self._calls.get(key) or self._make(key, feeds, fetches))(*inputs)

    def end_warm_up(self) -> list[BatchedCall]:
        """Returns the batched calls that the warm-up made. From now on none of them keeps its inputs."""
        with self._lock:
            self._warm = True
            return [call for call in self._calls.values() if isinstance(call, BatchedCall)]

    def has_signatures(self) -> str:
        """Describes the signatures that exist, for an error."""
        names = ", ".join(map(repr, sorted(self.signatures))) or "no signatures"
        return f"model {self.model!r} version {self.version} has {names}"

    def close(self) -> None:
        """Frees the version. No request may be running in it."""
        self._calls.clear()
        self._deep.clear()
        self._session.close()
        self._session = None
        # The graph's Python objects form reference cycles that keep the C++ graph alive.
        gc.collect()

    def _deep_call(self, signature: Signature) -> Call:
        # One for each signature, for any outputs, since each is a copy of the graph.
        with self._lock:
            if signature.name not in self._deep:
                feeds, fetches = (
                    [spec.tensor for spec in specs.values()] for specs in (signature.inputs, signature.outputs)
                )
                run = make_deep_run(self._session, feeds, fetches)
                self._deep[signature.name] = (
                    self._ending.call(run) if self._ending else guard(lambda *arrays: run(None, arrays))
                )
            return self._deep[signature.name]

    def _make(self, key: tuple[object, ...], feeds: Sequence[str], fetches: Sequence[str]) -> Call:
        if self._ending:
            call = make_ending_call(self._session, feeds, fetches, self._ending)
        else:
            call = make_call(self._session, feeds, fetches, self._pool)
        batching = self._batching
        if batching and (tuple(feeds), frozenset(fetches)) in self._batched:
            scheduler = batching.of_loops if self._ending else batching.scheduler
            call = BatchedCall(call, (id(self), tuple(feeds), tuple(fetches)), scheduler, batching.parameters)
            if self._warm:
                call.played = None
        with self._lock:
            if len(self._calls) >= CALLS_KEPT:
                self._calls.pop(next(iter(self._calls)))
            self._calls[key] = call
        return call


class BatchedCall:
    """A call of the session whose requests are batched; `alone` is the call itself.

    Until the warm-up of the version is complete, `played` has the first inputs for each set of shapes of a row, and all
    numbers of rows.
    """

    __slots__ = ("_execute", "_key", "_scheduler", "alone", "parameters", "played")

    def __init__(self, alone: Call, key: Hashable, scheduler: Scheduler, parameters: Parameters) -> None:
        self.alone = alone
        self.parameters = parameters
        self.played: dict[Hashable, tuple[Sequence[Array], set[int]]] | None = {}
        self._execute: Execute = lambda merged: alone(*merged)
        self._key = key
        self._scheduler = scheduler

    def __call__(self, *arrays: Array) -> list[Array]:
        """Runs it together with other requests. Raises RequestError."""
        outputs = self._scheduler.run(self._key, arrays, self._execute, self.parameters)
        played = self.played
        if played is not None and len(arrays[0]):
            shapes = tuple(array.shape[1:] for array in arrays)
            if shapes in played or len(played) < SHAPES_PLAYED:
                played.setdefault(shapes, (arrays, set()))[1].add(len(arrays[0]))
        return outputs


def load(model: str, version: int, path: Path, runtime: Runtime) -> Servable:
    """Loads the SavedModel in `path`, and initialises its tables and assets.

    Raises RequestError with TensorFlow's code and text, NOT_FOUND when there is no SavedModel.
    """
    if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise RequestError(
            Code.NOT_FOUND,
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`saved_model.pb`)\nSpecified file path: {path}",
        )
    from tensorflow.core.protobuf.config_pb2 import ConfigProto
    from tensorflow.python.client.session import Session
    from tensorflow.python.framework.ops import Graph
    from tensorflow.python.saved_model.loader_impl import SavedModelLoader

    config = ConfigProto.FromString(runtime.session_config)
    if runtime.intra_op_threads:
        config.intra_op_parallelism_threads = runtime.intra_op_threads
    if runtime.inter_op_threads or not config.inter_op_parallelism_threads:
        # A negative number means the caller's own thread.
        config.inter_op_parallelism_threads = runtime.inter_op_threads or -1
    pools = add_pools(config, runtime.slots.count)
    pool = OWN_THREAD if pools and config.inter_op_parallelism_threads < 0 else 0
    try:
        # The first session of a process initialises the GPU.
        session = Session(graph=Graph(), config=config)
    except Exception as error:
        raise _load_error(error) from error
    started = time.monotonic()
    try:
        digest = manifest_digest(path)
        # The steps of `tf.compat.v1.saved_model.load`. The file is read once, so the checked graph is the loaded graph.
        loader = SavedModelLoader(str(path))
        meta_graph = loader.get_meta_graph_def_from_tags(runtime.tags)
        refused = {}
        if not runtime.allow_file_and_python_ops:
            refused = check_operations(meta_graph, path, runtime.allowed_operations)
        for name, why in refused.items():
            # The initialisation is no signature for clients; TensorFlow only stores it among them.
            if name != INIT:
                log.warning("model %r version %d: %s", model, version, why)
        _register_operations(meta_graph)
        with session.graph.as_default():
            saver, _ = loader.load_graph(session.graph, runtime.tags)
            loader.restore_variables(session, saver)
            loader.run_init_ops(session, runtime.tags)
        # Parsed again with the message classes that the rest of the server uses.
        definitions = SignatureDefMap()
        for name, definition in meta_graph.signature_def.items():
            definitions.signature_def[name].MergeFromString(definition.SerializeToString())
        took = (time.monotonic() - started) * 1e6
        metrics.LOAD_ATTEMPTS.add(str(path), "success")
        metrics.LOAD_LATENCY.add(str(path), by=int(took))
        metrics.LOAD_STAGES.observe(took, str(path), "restore_graph")
        ending = Ending(model, runtime.slots, runtime.longest_run, pools) if has_loops(meta_graph.graph_def) else None
        alone = _unbatched(path) if runtime.batching else frozenset()
        servable = Servable(
            model, version, session, definitions, runtime, refused, ending=ending, pool=pool, unbatched=alone
        )
        servable.manifest = digest
        return servable
    except Exception as error:
        session.close()
        metrics.LOAD_ATTEMPTS.add(str(path), "fail")
        raise _load_error(error) from error


def _unbatched(path: Path) -> frozenset[str]:
    """Returns the signatures that the manifest of the version in `path` lists as unbatched: one example a request.

    Shapes can't show this: the values of a ragged tensor and its row splits can have equal lengths by chance.
    """
    if not (path / MANIFEST).exists():
        return frozenset()
    try:
        return read_manifest_file(path / MANIFEST).unbatched()
    except ManifestError as error:
        log.warning("%s. All signatures of this version are batched", error)
        return frozenset()


def _register_operations(meta_graph: Any) -> None:
    """Registers the operations in a MetaGraphDef that TensorFlow Serving contains and TensorFlow does not.

    Operations of packages that aren't installed stay unknown, so loading fails.
    """
    from tensorflow.python.framework.load_library import load_op_library

    if libraries():
        library = meta_graph.graph_def.library
        nodes = itertools.chain(meta_graph.graph_def.node, *(function.node_def for function in library.function))
        for path in libraries_for({node.op for node in nodes}):
            load_op_library(str(path))


def _load_error(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, OSError):
        return RequestError(Code.OUT_OF_RANGE, "Read less bytes than requested", str(error))
    if isinstance(error, RuntimeError):
        return RequestError(Code.NOT_FOUND, str(error))
    found = translate(error)
    return RequestError(found.code, found.text, hint(found.text) or found.explanation)
