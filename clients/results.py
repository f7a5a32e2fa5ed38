"""The results of calls, the same over gRPC and REST."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tfserving.clients.printable import printable
from tfserving.foundation.tensors import MOST_DIMENSIONS, Array


@dataclass(frozen=True)
class Prediction:
    """The outputs of one predict call, by name in alphabetical order: numpy arrays, strings as object arrays of bytes.

    `version` is the one that served the request. It is None over REST when no version was requested: REST responses
    don't contain it.
    """

    model: str
    version: int | None
    signature: str
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class Classification:
    """The result of one classify call: the classes of each example, in two arrays of shape (examples, classes).

    `labels` holds str, empty when the model returns only scores. `scores` is float32, 0 when it returns only labels.
    `version` is as in Prediction.
    """

    model: str
    version: int | None
    signature: str
    labels: Array
    scores: Array


@dataclass(frozen=True)
class Regression:
    """The result of one regress call: a value for each example, float32 of shape (examples,)."""

    model: str
    version: int | None
    signature: str
    values: Array


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: TensorFlow's name of its dtype, and its shape.

    A size is None when it is unknown, as that of the batch dimension usually is. The shape is None when the rank is
    unknown.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array of `shape` matches this tensor."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (None, size) for size, want in zip(shape, self.shape, strict=True)
        )

    def __str__(self) -> str:
        """For example `float32 (?, 8, 8, 1)`."""
        if self.shape is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} {shape_text(self.shape)}"


def shape_text(shape: Sequence[int | None]) -> str:
    """Return `shape` as text, for example `(?, 8, 8, 1)`; unknown sizes are `?`."""
    sizes = ["?" if size is None else str(size) for size in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def read_shape(sizes: Sequence[int]) -> tuple[int | None, ...]:
    """Return the shape with these sizes; -1 is unknown. Raises ValueError for too many dimensions."""
    if len(sizes) > MOST_DIMENSIONS:
        raise ValueError(f"a tensor has {len(sizes)} dimensions, the limit is {MOST_DIMENSIONS}")
    return tuple(None if size < 0 else int(size) for size in sizes)


@dataclass(frozen=True)
class Signature:
    """A named function of a model.

    `method` is for example `tensorflow/serving/predict`. The inputs in `optional` have defaults and can be omitted.
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
    """The status of one version on the server.

    `state` is TensorFlow Serving's: START, LOADING, AVAILABLE, UNLOADING, END (or UNKNOWN). `code` and `message` are
    the reason why a version ended: `OK` for one that was unloaded, else the name and the text of an error. `device` is
    the kind of device that the server names: `cpu`, `gpu` or `gpu-tf32` for the embedded server, "" for TensorFlow
    Serving, which names none. It isn't compared.
    https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/apis/get_model_status.proto
    """

    version: int
    state: str
    code: str = "OK"
    message: str = ""
    device: str = field(default="", compare=False)

    @property
    def failed(self) -> bool:
        """Whether this version failed to load."""
        return self.state == "END" and self.code != "OK"

    def __str__(self) -> str:
        """Return it in one line that is safe on a terminal, since it contains text of the server."""
        text = f"version {self.version} {self.state}"
        return printable(text if self.code == "OK" and not self.message else f"{text} ({self.code}: {self.message})")
