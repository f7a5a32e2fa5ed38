"""The proof of a version: a fresh process answers its golden requests, and the answers are the live model's."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import clients.messages
from clients.golden import RECORDS, GoldenRequest
from clients.messages import PredictResponse
from clients.tensors import Array, from_proto
from export import fresh
from export.errors import ProofError
from export.golden import batch_of
from export.manifest import ServedSignature
from export.servable import TensorSpec
from export.tolerances import describe, judge

DESCRIPTORS = Path(clients.messages.__file__).with_name("descriptors.binpb")
STDERR_LINES = 12
_HOW = {"function": "as a function", "session": "in a session"}


@dataclass(frozen=True)
class FreshAnswers:
    """What a fresh process found in a version: its signatures, and by way the golden requests' answers, in order."""

    signatures: Mapping[str, Mapping[str, Mapping[str, TensorSpec]]]
    outputs: Mapping[str, Sequence[Mapping[str, Array]]]


@dataclass(frozen=True)
class Proof:
    """How the version on disk answers: exactly as the live model, or differing by up to `largest`, within tolerance."""

    requests: int
    identical: bool
    largest: float

    def __str__(self) -> str:
        return "equal" if self.identical else f"within tolerance, largest difference {self.largest:.2g}"


class FreshProcess:
    """A Python process that imports TensorFlow while its parent does other things, and then answers one version."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C is for the parent, which ends it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-I", fresh.__file__],
            cwd=tempfile.gettempdir(),
            stdin=subprocess.PIPE,
            stdout=self._stderr,
            stderr=self._stderr,
            start_new_session=True,
        )

    def __enter__(self) -> FreshProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def answer(self, version_folder: Path, scratch: Path, refused: Iterable[str]) -> FreshAnswers:
        """Its answers to the golden requests in `version_folder`.

        `refused` are the packages it must do without, `scratch` is a folder for its files. Raises ProofError when it
        can't load the version or answer.
        """
        answers, signatures = scratch / "answers", scratch / "signatures.json"
        answers.mkdir()
        job = {
            "version": str(version_folder),
            "golden": str(version_folder / RECORDS),
            "descriptors": str(DESCRIPTORS),
            "refused": list(refused),
            "answers": str(answers),
            "signatures": str(signatures),
        }
        self._process.communicate(json.dumps(job).encode() + b"\n")
        if self._process.returncode:
            raise ProofError(f"a process without the model's code {self._end()}")
        return FreshAnswers(
            _read_signatures(signatures), {way: list(_read_answers(answers / way)) for way in fresh.WAYS}
        )

    def _end(self) -> str:
        """How the process ended, and its last words."""
        code = self._process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()[-STDERR_LINES:]
        return "\n  ".join([f"{how}:" if lines else f"{how}, without a word", *lines])


def prove(answers: FreshAnswers, signatures: Mapping[str, ServedSignature], requests: Sequence[GoldenRequest]) -> Proof:
    """Compares a fresh process's `answers` with the signatures that were written and with the live model's answers.

    Raises ProofError naming the signature, the output and the largest difference.
    """
    for name, signature in signatures.items():
        declared = {"inputs": signature.inputs, "outputs": signature.outputs}
        if answers.signatures.get(name) != declared:
            raise ProofError(
                f"signature {name!r} is loaded as {answers.signatures.get(name)}, it was written as {declared}"
            )
    identical, largest = True, 0.0
    for way, answered in answers.outputs.items():
        for request, outputs in zip(requests, answered, strict=True):
            for output, expected in request.outputs.items():
                difference = judge(outputs[output], expected)
                if difference.verdict == "different":
                    raise ProofError(
                        f"signature {request.signature!r}, output {output!r}: what was written, run {_HOW[way]}, "
                        f"answers a batch of {batch_of(request)} otherwise than the live model: "
                        f"{describe(difference)}; is there Python in the function that ran only once, when it was made "
                        "a graph?"
                    )
                identical = identical and difference.verdict == "equal"
                largest = max(largest, difference.absolute or 0.0)
    return Proof(len(requests), identical, largest)


def _read_signatures(path: Path) -> dict[str, dict[str, dict[str, TensorSpec]]]:
    return {
        name: {
            kind: {
                key: TensorSpec(dtype, None if shape is None else tuple(shape)) for key, (dtype, shape) in specs.items()
            }
            for kind, specs in kinds.items()
        }
        for name, kinds in json.loads(path.read_text()).items()
    }


def _read_answers(path: Path) -> Iterator[dict[str, Array]]:
    import tensorflow as tf

    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        yield {name: from_proto(tensor) for name, tensor in PredictResponse.FromString(record).outputs.items()}
