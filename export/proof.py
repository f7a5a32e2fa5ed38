"""The proof of a version: a fresh process runs its golden requests and returns the live model's outputs.

    live model ──► golden request ──► kept, with the live model's outputs
                         └──► fresh process ──► as a function, in a session ──► compared

The fresh process runs one request while the live model runs the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType

from tfserving.export import fresh
from tfserving.export.comparison import Comparison, as_recorded, disputed_rows
from tfserving.export.devices import Environment, proof_environment
from tfserving.export.edge_requests import EdgeRequest, Note
from tfserving.export.errors import ExportError, ProofError
from tfserving.export.graph import has_functions, read_graph
from tfserving.export.manifest import ServedSignature
from tfserving.export.records import prediction_log
from tfserving.export.rows import described
from tfserving.export.servable import TensorSpec
from tfserving.export.tolerances import Judge
from tfserving.foundation import messages, served_ops
from tfserving.foundation.devices import Device
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.messages import PredictResponse
from tfserving.foundation.temporary import no_temporary
from tfserving.foundation.tensors import BY_NAME, Array, from_proto

DESCRIPTORS = Path(messages.__file__).with_name("descriptors.binpb")
STDERR_LINES = 12
# From this size of the variables on, only one copy of them is in memory: the live model's, until all golden requests
# are made, then one in the fresh process, loaded in one way after the other. Below it, doing all at once saves time.
LARGE = 64 << 20


@dataclass(frozen=True)
class Proof:
    """How the outputs of the version on disk compare: identical, or with differences up to `largest`, in tolerance.

    `device` is the kind of device that computed them; its set of tolerances was used.
    """

    requests: int
    identical: bool
    largest: float
    device: Device = "cpu"

    def __str__(self) -> str:
        return "equal" if self.identical else f"within tolerance, largest difference {self.largest:.2g}"


class FreshProcess:
    """A Python process that imports TensorFlow while its parent does other things, and then runs one version."""

    def __init__(self, changes: Environment = MappingProxyType({})) -> None:
        """Start it with `changes` of the environment in which golden requests run."""
        # It has a session of its own: Ctrl-C is for the parent, which ends this process.
        try:
            # Its temporary files, which stay when it is killed, are removed with this folder.
            self._folder = tempfile.TemporaryDirectory(prefix="tfserving-", ignore_cleanup_errors=True)
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the process
        except OSError as error:
            raise no_temporary("the output of the fresh process and its trial model", error) from None
        self._process = subprocess.Popen(
            [sys.executable, "-I", fresh.__file__, str(DESCRIPTORS)],
            cwd=self._folder.name,
            env={**proof_environment(os.environ, changes), "TMPDIR": self._folder.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        # Responses are read as they arrive, or both processes could block with full pipes.
        self._responses: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # The number of responses to a command, and of those that were not taken yet.
        self._ways = 0
        self._due = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> FreshProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            assert stream is not None
            # A command that it did not read before it ended is still buffered.
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._folder.cleanup()

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, for example because a version crashed it."""
        return self._process.poll() is not None

    def gpus(self) -> tuple[str, ...]:
        """Return the names of the GPUs that it runs versions on; none when it runs them on a processor.

        Pending responses of a version are discarded.
        """
        self._discard()
        self._due += 1
        self._send(json.dumps({"gpus": True}).encode())
        return tuple(json.loads(self._result("can't list its GPUs")))

    def load(self, version_folder: Path, ways: Sequence[str], refused: Iterable[str] = ()) -> None:
        """Make it load the version in `version_folder`, and refuse imports of the packages `refused` from now on.

        `signatures` returns its signatures, or raises the error, for each of the `ways`. Pending responses of the
        previous version are discarded.
        """
        self._discard()
        self._ways = len(ways)
        self._due = self._ways
        order = {
            "load": str(version_folder.absolute()),
            "ways": ways,
            "refused": list(refused),
            # Servers have these operations, too.
            "libraries": [str(path) for path in _libraries(version_folder)],
        }
        self._send(json.dumps(order).encode())

    def send(self, request: GoldenRequest) -> None:
        """Make it run `request`. `outputs` returns the result for each way, in order."""
        order = prediction_log(request, "").SerializeToString()
        self._due += self._ways
        self._send(order)

    def signatures(self) -> dict[str, dict[str, dict[str, TensorSpec]]]:
        """Return the signatures of the version that `load` began to load, for its first way, then for the next.

        Raises ProofError when it can't be loaded in this way.
        """
        return {
            name: {
                kind: {
                    key: TensorSpec(dtype, None if shape is None else tuple(shape))
                    for key, (dtype, shape) in specs.items()
                }
                for kind, specs in kinds.items()
            }
            for name, kinds in json.loads(self._result("can't load it")).items()
        }

    def outputs(self, request: GoldenRequest) -> dict[str, Array]:
        """Return the outputs of the next response, which is for `request`. Raises ProofError when it is an error."""
        where = f"fails for signature {request.signature!r}, {described(request.inputs)}"
        response = PredictResponse.FromString(self._result(where))
        return {name: from_proto(tensor) for name, tensor in response.outputs.items()}

    def survive(self, request: GoldenRequest) -> None:
        """Make it run `request`, which may fail. Raises ProofError when the process ends."""
        self.send(request)
        for _ in range(self._ways):
            if self._take() is None:
                raise ProofError(f"a process without the model's code {self._end()}")

    def _send(self, order: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(fresh.LENGTH.pack(len(order)) + order)
            self._process.stdin.flush()
        except BrokenPipeError:
            # The reason is raised when the response is taken.
            return

    def _result(self, failed: str) -> bytes:
        message = self._take()
        if message is None:
            raise ProofError(f"a process without the model's code {self._end()}")
        if message.startswith(fresh.ERROR):
            text = message[1:].decode(errors="replace")
            hint = served_ops.hint(text)
            raise ProofError(f"a process without the model's code {failed}: {text}{hint and f'; {hint}'}")
        return message[1:]

    def _discard(self) -> None:
        while self._due:
            self._take()

    def _take(self) -> bytes | None:
        """Return the next response; None, from then on, when the process has ended."""
        message = self._responses.get()
        self._due -= 1
        if message is None:
            # The next call returns the same.
            self._responses.put(None)
            self._due = 0
        return message

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while len(length := stream.read(fresh.LENGTH.size)) == fresh.LENGTH.size:
            (size,) = fresh.LENGTH.unpack(length)
            message = stream.read(size)
            if len(message) < size:
                break
            self._responses.put(message)
        self._responses.put(None)

    def _end(self) -> str:
        """Return how the process ended, and the last lines that it printed."""
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()[-STDERR_LINES:]
        return "\n  ".join([f"{how}:" if lines else f"{how} and printed nothing", *lines])


def prove(
    fresh_process: FreshProcess,
    version_folder: Path,
    signatures: Mapping[str, ServedSignature],
    requests: Iterable[GoldenRequest],
    judge: Judge,
    refused: Iterable[str] = (),
    note: Note = lambda _: None,
    reasons: Mapping[str, str] | None = None,
) -> tuple[list[GoldenRequest], Proof]:
    """Compare the outputs of the version in `version_folder` in a fresh process with the golden ones.

    The version is run in a session, as on servers, and as a function, if TensorFlow 2 wrote it. The `requests` are
    taken one by one, so that they can be made meanwhile. They are returned as a list, without edge values that are
    disputed; `note` is called with those. Raises ProofError with the signature, the output and the largest difference,
    and with the common reason in `reasons` for the way in which it is run.
    """
    one_by_one = is_large(version_folder)
    every = fresh.WAYS if has_functions(version_folder) else ("session",)
    rounds = [[way] for way in every] if one_by_one else [list(every)]
    comparison = Comparison(judge, reasons or {})
    golden: list[GoldenRequest] = []
    for ways in rounds:
        fresh_process.load(version_folder, ways, refused)
        sent = _send(fresh_process, requests)
        for _ in ways:
            _check_signatures(fresh_process.signatures(), signatures)
        golden = []
        while sent:
            settled, again = _compare(fresh_process, sent, ways, comparison, note)
            golden += settled
            sent = _send(fresh_process, again)
        requests = golden
    return golden, Proof(len(golden), comparison.identical, comparison.largest)


def is_large(version_folder: Path) -> bool:
    """Return whether the variables of a version are so large that only one copy of them may be in memory."""
    return sum(file.stat().st_size for file in version_folder.glob("variables/*")) >= LARGE


def _libraries(version_folder: Path) -> list[Path]:
    """Return the libraries that register the version's operations which TensorFlow itself lacks."""
    # Reading a graph takes time, and most machines have no such package.
    if not served_ops.libraries():
        return []
    try:
        return served_ops.libraries_for(node.op for node in read_graph(version_folder))
    except ExportError:
        # Loading it reports the reason.
        return []


def _send(fresh_process: FreshProcess, requests: Iterable[GoldenRequest]) -> list[GoldenRequest]:
    sent = []
    for request in requests:
        fresh_process.send(request)
        sent.append(request)
    return sent


def _compare(
    fresh_process: FreshProcess,
    sent: Iterable[GoldenRequest],
    ways: Sequence[str],
    comparison: Comparison,
    note: Note,
) -> tuple[list[GoldenRequest], list[GoldenRequest]]:
    """Return those of the requests `sent` whose outputs agree, and the rest of disputed ones, to be sent again."""
    settled: list[GoldenRequest] = []
    again: list[GoldenRequest] = []
    for request in sent:
        outputs = {way: fresh_process.outputs(request) for way in ways}
        if isinstance(request, EdgeRequest) and (disputed := disputed_rows(request, outputs, comparison)):
            note(request.left_out(disputed))
            again += [rest for rest in [request.without(disputed)] if rest]
            continue
        for way, found in outputs.items():
            comparison.compare(as_recorded(request), as_recorded(request, found), way)
        settled.append(request)
    return settled, again


def _check_signatures(
    loaded: Mapping[str, Mapping[str, Mapping[str, TensorSpec]]], written: Mapping[str, ServedSignature]
) -> None:
    """Raise ProofError when the `loaded` signatures differ from the `written` ones, except for unknown dimensions."""
    for name, signature in written.items():
        found = loaded.get(name)
        if found is None:
            raise ProofError(
                f"signature {name!r} was written but not loaded; loaded signatures: {', '.join(sorted(loaded))}"
            )
        for kind, specs in (("inputs", signature.inputs), ("outputs", signature.outputs)):
            for key in sorted(specs.keys() | found[kind].keys()):
                actual, expected = found[kind].get(key), specs.get(key)
                # Requests never contain values that are not tensors.
                fits = actual and expected and (expected.is_a(actual) or expected.dtype not in BY_NAME)
                if not fits:
                    raise ProofError(
                        f"signature {name!r}, {kind[:-1]} {key!r}: it was loaded as {actual or 'nothing'} and written "
                        f"as {expected or 'nothing'}"
                    )
