"""The parameters of batching, and the files that contain them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from tfserving.foundation.batch_sizes import LARGEST_ON_A_GPU, powers_of_two
from tfserving.serving.config_messages import read_message
from tfserving.serving.embedded.errors import StartError

OWN_PARAMETERS = "batching_params.pbtxt"


@dataclass(frozen=True)
class Parameters:
    """How requests are batched, with the names of BatchingParameters.

    https://github.com/tensorflow/serving/blob/r2.20/tensorflow_serving/batching/README.md
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    # The rows of one run, when larger requests are split. None: they are not.
    max_execution_batch_size: int | None = None

    @property
    def largest(self) -> int:
        """The most rows of one run."""
        return min(self.max_batch_size, self.max_execution_batch_size or self.max_batch_size)

    def size(self, rows: int) -> int:
        """Returns the allowed size for so many rows."""
        return next((allowed for allowed in self.allowed_batch_sizes if allowed >= rows), rows)

    def on_a_gpu(self) -> Parameters:
        """Returns these parameters with allowed sizes, and larger requests split, where they have no sizes.

        Without allowed sizes each batch has a size of its own, and a GPU needs seconds for a size that is new.
        """
        if self.allowed_batch_sizes:
            return self
        largest = self.max_execution_batch_size or min(self.max_batch_size, LARGEST_ON_A_GPU)
        return replace(self, allowed_batch_sizes=powers_of_two(largest), max_execution_batch_size=largest)


def read_parameters(path: Path, flag: str = "--batching_parameters_file") -> tuple[Parameters, int | None]:
    """Returns the parameters in a text BatchingParameters, and the number of batch threads, if the file has one.

    Raises StartError when the file can't be read or is wrong.
    """
    message = read_message("BatchingParameters", path, flag)

    def number(name: str, default: int, least: int) -> int:
        value = getattr(message, name).value if message.HasField(name) else default
        if value < least:
            raise StartError(f"{flag}={path}: {name} is {value}; it must be at least {least}")
        return int(value)

    most = number("max_batch_size", Parameters.max_batch_size, 1)
    execution = number("max_execution_batch_size", most, 1)
    allowed = tuple(message.allowed_batch_sizes)
    splits = message.enable_large_batch_splitting.value
    largest = execution if splits else most
    if any(one >= other for one, other in pairwise(allowed)) or (allowed and allowed[0] < 1):
        raise StartError(f"{flag}={path}: allowed_batch_sizes {list(allowed)} must increase, starting at 1 or more")
    if allowed and allowed[-1] != largest:
        what = "max_execution_batch_size" if splits else "max_batch_size"
        raise StartError(f"{flag}={path}: the last of allowed_batch_sizes {list(allowed)} must be {what}, {largest}")
    if execution > most:
        raise StartError(f"{flag}={path}: max_execution_batch_size {execution} is larger than max_batch_size {most}")
    parameters = Parameters(
        max_batch_size=most,
        batch_timeout_micros=number("batch_timeout_micros", 0, 0),
        max_enqueued_batches=number("max_enqueued_batches", Parameters.max_enqueued_batches, 1),
        allowed_batch_sizes=allowed,
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        max_execution_batch_size=execution if splits else None,
    )
    threads = number("num_batch_threads", 0, 0) if message.HasField("num_batch_threads") else None
    return parameters, threads or None


def own_parameters(folder: Path) -> Parameters | None:
    """Returns the parameters in the version's own file in `folder`. Raises StartError when it can't be read.

    Returns None without a file. With the flag for own parameters, TensorFlow Serving batches no other versions
    (https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/servables/tensorflow/bundle_factory_util.cc).
    """
    path = folder / OWN_PARAMETERS
    return read_parameters(path, OWN_PARAMETERS)[0] if path.is_file() else None
