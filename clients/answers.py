"""What a model server answers, the same over gRPC and REST."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfserving.clients.printable import printable
from tfserving.foundation.tensors import MOST_DIMENSIONS, Array


@dataclass(frozen=True)
class Prediction:
    """The outputs of one predict call, by name in alphabetical order: numpy arrays, strings as object arrays of bytes.

    `version` is the one that answered; None when it isn't known: REST answers don't tell, and none was asked for.
    """

    model: str
    version: int | None
    signature: str
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class Classification:
    """The answer of one classify call: for each example its classes, both arrays of shape (examples, classes).

    `labels` holds str, empty where the model answers scores alone; `scores` is float32, 0 where it answers labels
    alone. `version` is as in Prediction.
    """

    model: str
    version: int | None
    signature: str
    labels: Array
    scores: Array


@dataclass(frozen=True)
class Regression:
    """The answer of one regress call: a value for each example, float32 of shape (examples,)."""

    model: str
    version: int | None
    signature: str
    values: Array


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: TensorFlow's name for its element type, and its shape.

    A size is None when any will do, as the batch dimension's usually; the shape is None when any rank will do.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of `shape` can be this tensor."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (None, size) for size, want in zip(shape, self.shape, strict=True)
        )

    def __str__(self) -> str:
        """For example `float32 (-1, 8, 8, 1)`, with -1 for any size."""
        if self.shape is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} {tuple(-1 if size is None else size for size in self.shape)}"


def read_shape(sizes: Sequence[int]) -> tuple[int | None, ...]:
    """The shape with these sizes, in which -1 is any. Raises ValueError for more dimensions than a tensor may have."""
    if len(sizes) > MOST_DIMENSIONS:
        raise ValueError(f"a tensor has {len(sizes)} dimensions, {MOST_DIMENSIONS} are the most")
    return tuple(None if size < 0 else int(size) for size in sizes)


@dataclass(frozen=True)
class Signature:
    """A named function of a model.

    `method` is for example `tensorflow/serving/predict`; the inputs in `optional` have a default and can be left out.
    """

    method: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Metadata:
    """The signatures of one version of a model, by name."""

    model: str
    version: int
    signatures: Mapping[str, Signature]


@dataclass(frozen=True)
class VersionStatus:
    """One version as the server sees it.

    `state` is TensorFlow Serving's: START, LOADING, AVAILABLE, UNLOADING, END (or UNKNOWN). `code` and `message` say
    why a version ended: `OK` for one that was unloaded, else the name of a status code and the text of the error.
    https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/apis/get_model_status.proto
    """

    version: int
    state: str
    code: str = "OK"
    message: str = ""

    @property
    def failed(self) -> bool:
        """Whether this version ended because of an error: it could not be loaded."""
        return self.state == "END" and self.code != "OK"

    def __str__(self) -> str:
        """In one line, harmless on a terminal: the server's own words are in it."""
        said = f"version {self.version} {self.state}"
        return printable(said if self.code == "OK" and not self.message else f"{said} ({self.code}: {self.message})")
