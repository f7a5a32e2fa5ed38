"""The proof of a version: a fresh process answers its golden requests, and the answers are the live model's.

    live model ──► golden request ──► the request, with the live answer, is kept
                         └──► fresh process ──► as a function, in a session ──► compared

The fresh process works on one request while the live model is asked the next.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from tfserving.export import fresh
from tfserving.export.edge_requests import EdgeRequest, Note
from tfserving.export.errors import ExportError, ProofError
from tfserving.export.graph import has_functions, read_graph
from tfserving.export.manifest import ServedSignature
from tfserving.export.records import prediction_log
from tfserving.export.rows import described
from tfserving.export.servable import TensorSpec
from tfserving.export.tolerances import Judge, describe
from tfserving.foundation import messages, served_ops
from tfserving.foundation.golden import GoldenRequest, request_of
from tfserving.foundation.messages import PredictResponse
from tfserving.foundation.temporary import no_temporary
from tfserving.foundation.tensors import BY_NAME, Array, from_proto

DESCRIPTORS = Path(messages.__file__).with_name("descriptors.binpb")
STDERR_LINES = 12
# From this size of its variables there is one copy of them at a time: the live model's, until all golden requests are
# made, then one in the fresh process, loaded in one way and then in the other. Below it, doing all at once saves time.
LARGE = 64 << 20
_HOW = {"function": "as a function", "session": "in a session, as servers do"}


@dataclass(frozen=True)
class Proof:
    """How the version on disk answers: exactly as the live model, or differing by up to `largest`, within tolerance."""

    requests: int
    identical: bool
    largest: float

    def __str__(self) -> str:
        return "equal" if self.identical else f"within tolerance, largest difference {self.largest:.2g}"


class FreshProcess:
    """A Python process that imports TensorFlow while its parent does other things, and then answers for one version."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C is for the parent, which ends it.
        try:
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the process
        except OSError as error:
            raise no_temporary("what the fresh process prints, and its trial model", error) from None
        self._process = subprocess.Popen(
            [sys.executable, "-I", fresh.__file__, str(DESCRIPTORS)],
            cwd=tempfile.gettempdir(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        # Answers are taken as they come, or both processes could wait for each other, their pipes full.
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # How many answers an order has, and how many were ordered and not taken.
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
            # An order that it died before reading is still to be written.
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def load(self, version_folder: Path, ways: Sequence[str], refused: Iterable[str] = ()) -> None:
        """Lets it load the version in `version_folder`, from now on without the packages `refused`.

        Its signatures, or the error, come with `signatures`, for each of the `ways`. Answers about the version before
        that nobody took are forgotten.
        """
        while self._due:
            self._take()
        self._ways = len(ways)
        self._due = self._ways
        order = {
            "load": str(version_folder.absolute()),
            "ways": ways,
            "refused": list(refused),
            # A server has these operations, too.
            "libraries": [str(path) for path in _libraries(version_folder)],
        }
        self._send(json.dumps(order).encode())

    def ask(self, request: GoldenRequest) -> None:
        """Lets it answer `request`, the answers come with `answer`, one for each way, in order."""
        order = prediction_log(request, "").SerializeToString()
        self._due += self._ways
        self._send(order)

    def signatures(self) -> dict[str, dict[str, dict[str, TensorSpec]]]:
        """The signatures of the version that `load` began to load, in its first way, then in the next.

        Raises ProofError when it can't be loaded so.
        """
        return {
            name: {
                kind: {
                    key: TensorSpec(dtype, None if shape is None else tuple(shape))
                    for key, (dtype, shape) in specs.items()
                }
                for kind, specs in kinds.items()
            }
            for name, kinds in json.loads(self._answer("could not load it")).items()
        }

    def answer(self, request: GoldenRequest) -> dict[str, Array]:
        """The next answer, to `request`. Raises ProofError when it has none."""
        where = f"failed on signature {request.signature!r}, {described(request.inputs)}"
        response = PredictResponse.FromString(self._answer(where))
        return {name: from_proto(tensor) for name, tensor in response.outputs.items()}

    def outlive(self, request: GoldenRequest) -> None:
        """Lets it answer `request`, with an error if it must. Raises ProofError when it ends instead."""
        self.ask(request)
        for _ in range(self._ways):
            if self._take() is None:
                raise ProofError(f"a process without the model's code {self._end()}")

    def _send(self, order: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(fresh.LENGTH.pack(len(order)) + order)
            self._process.stdin.flush()
        except BrokenPipeError:
            # Why it ended is told to whoever waits for the answer.
            return

    def _answer(self, failed: str) -> bytes:
        message = self._take()
        if message is None:
            raise ProofError(f"a process without the model's code {self._end()}")
        if message.startswith(fresh.ERROR):
            said = message[1:].decode(errors="replace")
            hint = served_ops.hint(said)
            raise ProofError(f"a process without the model's code {failed}, {said}{hint and f'; {hint}'}")
        return message[1:]

    def _take(self) -> bytes | None:
        """The next answer; None, from then on, when the process has ended."""
        message = self._answers.get()
        self._due -= 1
        if message is None:
            # Whoever asks again is told the same.
            self._answers.put(None)
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
            self._answers.put(message)
        self._answers.put(None)

    def _end(self) -> str:
        """How the process ended, and its last words."""
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()[-STDERR_LINES:]
        return "\n  ".join([f"{how}:" if lines else f"{how}, without a word", *lines])


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
    """Compares a fresh process's answers about the version in `version_folder` with the golden ones.

    It is run in a session, as servers do, and as a function, if TensorFlow 2 wrote it. The `requests` are taken one by
    one, so that they can be made meanwhile; they come back as a list, without the edge values that are disputed, of
    which `note` is told. Raises ProofError naming the signature, the output and the largest difference, with a common
    reason for one when it is run in that way, if `reasons` has any.
    """
    one_by_one = is_large(version_folder)
    every = fresh.WAYS if has_functions(version_folder) else ("session",)
    rounds = [[way] for way in every] if one_by_one else [list(every)]
    comparison = _Comparison(judge, reasons or {})
    golden: list[GoldenRequest] = []
    for ways in rounds:
        fresh_process.load(version_folder, ways, refused)
        asked = _ask(fresh_process, requests)
        for _ in ways:
            _check_signatures(fresh_process.signatures(), signatures)
        golden = []
        while asked:
            settled, anew = _compare(fresh_process, asked, ways, comparison, note)
            golden += settled
            asked = _ask(fresh_process, anew)
        requests = golden
    return golden, Proof(len(golden), comparison.identical, comparison.largest)


def is_large(version_folder: Path) -> bool:
    """Whether a version has so many variables that time is spent to have fewer copies of them."""
    return sum(file.stat().st_size for file in version_folder.glob("variables/*")) >= LARGE


def _libraries(version_folder: Path) -> list[Path]:
    """What registers those operations of the version that TensorFlow itself has not."""
    # Reading a graph takes a moment, and most machines have no such package.
    if not served_ops.libraries():
        return []
    try:
        return served_ops.libraries_for(node.op for node in read_graph(version_folder))
    except ExportError:
        # Why it can't be loaded is what loading it tells.
        return []


def _ask(fresh_process: FreshProcess, requests: Iterable[GoldenRequest]) -> list[GoldenRequest]:
    asked = []
    for request in requests:
        fresh_process.ask(request)
        asked.append(request)
    return asked


def _compare(
    fresh_process: FreshProcess,
    asked: Iterable[GoldenRequest],
    ways: Sequence[str],
    comparison: _Comparison,
    note: Note,
) -> tuple[list[GoldenRequest], list[GoldenRequest]]:
    """Those of the requests that were `asked` that are answered as they should, and those to be asked anew."""
    settled: list[GoldenRequest] = []
    anew: list[GoldenRequest] = []
    for request in asked:
        answers = {way: fresh_process.answer(request) for way in ways}
        if isinstance(request, EdgeRequest) and (disputed := _disputed(request, answers, comparison)):
            note(request.left_out(disputed))
            anew += [rest for rest in [request.without(disputed)] if rest]
            continue
        for way, answer in answers.items():
            comparison.compare(_as_recorded(request), _as_recorded(request, answer), way)
        settled.append(request)
    return settled, anew


def _disputed(request: EdgeRequest, answers: Mapping[str, Mapping[str, Array]], comparison: _Comparison) -> set[int]:
    """The rows of `request` that are disputed. Raises ProofError when others are answered otherwise."""
    disputed: set[int] = set()
    for way, answer in answers.items():
        if rows := request.disputed(answer, comparison.judge, rewritten=way == "session"):
            rest, answered = (replace(request, outputs=outputs).without(rows) for outputs in (request.outputs, answer))
            if rest and answered:
                comparison.compare(_as_recorded(rest), _as_recorded(answered), way)
            disputed |= rows
    return disputed


class _Comparison:
    """What all comparisons so far came to."""

    def __init__(self, judge: Judge, reasons: Mapping[str, str]) -> None:
        self.judge = judge
        self._reasons = reasons
        self.identical = True
        self.largest = 0.0

    def compare(self, golden: GoldenRequest, answered: GoldenRequest, way: str) -> None:
        """Raises ProofError when `answered` is not what `golden` has."""
        for output, expected in golden.outputs.items():
            difference = self.judge.judge(answered.outputs[output], expected)
            if difference.verdict == "different":
                reason = f"\n  ({self._reasons[way]})" if way in self._reasons else ""
                raise ProofError(
                    f"signature {golden.signature!r}, output {output!r}: the version, run {_HOW[way]}, answers "
                    f"{described(golden.inputs)} otherwise than the live model: {describe(difference)}{reason}"
                )
            self.identical = self.identical and difference.verdict == "equal"
            self.largest = max(self.largest, difference.absolute or 0.0)


def _as_recorded(request: GoldenRequest, answered: Mapping[str, Array] | None = None) -> GoldenRequest:
    """`request`, perhaps with another answer, as it comes back from a record: classes as text, regressions flat."""
    if answered is not None:
        request = GoldenRequest(request.signature, request.inputs, answered, request.method)
    return request if request.method == "predict" else request_of(prediction_log(request, ""))


def _check_signatures(
    loaded: Mapping[str, Mapping[str, Mapping[str, TensorSpec]]], written: Mapping[str, ServedSignature]
) -> None:
    """Raises ProofError when what was `loaded` is not what was `written`; it may know less of the shapes."""
    for name, signature in written.items():
        found = loaded.get(name)
        if found is None:
            raise ProofError(
                f"signature {name!r} was written, and is not loaded; loaded are {', '.join(sorted(loaded))}"
            )
        for kind, specs in (("inputs", signature.inputs), ("outputs", signature.outputs)):
            for key in sorted(specs.keys() | found[kind].keys()):
                there, wanted = found[kind].get(key), specs.get(key)
                # What is no tensor of a request is not asked.
                fits = there and wanted and (wanted.is_a(there) or wanted.dtype not in BY_NAME)
                if not fits:
                    raise ProofError(
                        f"signature {name!r} is loaded with the {kind[:-1]} {key!r}: {there or 'none'}, it was written "
                        f"with {wanted or 'none'}"
                    )
