"""Who uses a GPU's memory, in place of the many texts with which CUDA's libraries report that there is none left.

Without memory the libraries fail to create their handles, and TensorFlow reports only that:
https://github.com/tensorflow/tensorflow/tree/v2.21.0/third_party/xla/xla/stream_executor/cuda
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Sequence
from time import monotonic

from tfserving.foundation.gpus import Gpu, GpuProcess, gibibytes, gpu_processes, visible_gpus
from tfserving.serving.embedded.errors import RequestError, StartError

log = logging.getLogger(__name__)

# CUDA itself and the handles of its libraries take about that much in each process.
LEAST_FREE = 1 << 29
# With more free memory than this a library has failed for another reason.
_PLENTY = 2 << 30
# How many processes a text names, and the seconds between two such lines in the log.
_MOST_NAMED, LOG_SECONDS = 3, 60.0

_LIBRARIES = re.compile(
    r"No Blas support for stream"
    r"|failed to create cublas(Lt)? handle"
    r"|CUBLAS_STATUS_(NOT_INITIALIZED|ALLOC_FAILED)"
    r"|CUDNN_STATUS_(NOT_INITIALIZED|ALLOC_FAILED|INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)"
    r"|could not create cudnn handle"
    r"|error before creating cudnn handle"
    r"|DNN library (is not found|initialization failed)"
    r"|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation"
    r"|cuMemAlloc(Async)? failed to allocate",
    re.IGNORECASE,
)
# Of TensorFlow's allocator and of XLA's. The same texts without a GPU's name are about the host's memory.
_TENSOR = re.compile(r"OOM when allocating .*(device:GPU:|GPU_\d+_bfc|gpu_async)", re.DOTALL)
_XLA = re.compile(r"out of memory while trying to allocate \d+ bytes", re.IGNORECASE)


class GpuMemory:
    """The memory of the GPUs that this process uses: `gpus` are their numbers among those that the driver shows it."""

    def __init__(self, gpus: Sequence[int] = ()) -> None:
        self._gpus = tuple(gpus)
        self._logged = -LOG_SECONDS
        self._lock = threading.Lock()

    def explained(self, error: RequestError) -> RequestError:
        """Returns `error` with what uses the GPUs' memory if a lack of it is the likely reason."""
        if not self.lacks(error.text):
            return error
        return RequestError(error.code, error.text, self.describe())

    def hint(self, text: str) -> str:
        """Returns an explanation for a client whose request failed with `text`; empty for other failures.

        It names no processes, which are the log's matter. The line in the log comes from another thread, and not more
        than once in a minute.
        """
        if not self.lacks(text):
            return ""
        with self._lock:
            due = monotonic() >= self._logged + LOG_SECONDS
            if due:
                self._logged = monotonic()
        if due:
            threading.Thread(target=self._log, name="gpu-memory", daemon=True).start()
        return "the GPU has too little free memory for this request. Send fewer rows at a time"

    def lacks(self, text: str) -> bool:
        """Returns whether TensorFlow's `text` means that a GPU of this process has no memory left."""
        return bool(self._gpus) and any(pattern.search(text) for pattern in (_LIBRARIES, _TENSOR, _XLA))

    def describe(self) -> str:
        """Returns how much memory of the GPUs is used, and by which processes."""
        gpus = visible_gpus()
        processes = gpu_processes()
        used = [_described(gpus[number], processes) for number in self._gpus if number < len(gpus)]
        return (
            "; ".join(used) or "the GPU's memory is probably taken; nvidia-smi, which lists by whom, doesn't run here"
        )

    def _log(self) -> None:
        log.warning("requests fail because a GPU has no free memory: %s", self.describe())


# The memory of this process's GPUs. A process begins without one.
gpu_memory = GpuMemory()


def use_gpus(gpus: Sequence[int]) -> None:
    """Explains errors by the memory of these GPUs from now on."""
    global gpu_memory  # noqa: PLW0603 - the GPUs belong to the process
    gpu_memory = GpuMemory(gpus)


def check_free(gpus: Sequence[Gpu]) -> None:
    """Raises StartError for the first of `gpus` that has nearly no free memory, and names who uses it."""
    for gpu in gpus:
        if gpu.total is not None and gpu.used is not None and gpu.total - gpu.used < LEAST_FREE:
            raise StartError(
                f"{_described(gpu, gpu_processes())}. Stop that process or limit its memory, or choose another GPU "
                "with CUDA_VISIBLE_DEVICES"
            )


def _described(gpu: Gpu, processes: Sequence[GpuProcess]) -> str:
    name = f"GPU {gpu.index} ({gpu.name})"
    who = _named([process for process in processes if process.uuid == gpu.uuid])
    if gpu.total is None or gpu.used is None:
        return f"the memory of {name} is probably taken ({who}); the driver doesn't report its size"
    used = f"{gibibytes(gpu.used)} of {gibibytes(gpu.total)} GiB"
    if gpu.total - gpu.used > _PLENTY:
        return f"{used} of the memory of {name} are used ({who})"
    return f"the memory of {name} is taken: {used} ({who})"


def _named(processes: Sequence[GpuProcess]) -> str:
    if not processes:
        return "the driver lists no process, as in a container: run nvidia-smi on the host to see which"
    largest = sorted(processes, key=lambda process: process.used or 0, reverse=True)
    shown = ", ".join(map(_process, largest[:_MOST_NAMED]))
    more = len(largest) - _MOST_NAMED
    return f"by {shown}" + (f" and {more} more" if more > 0 else "")


def _process(process: GpuProcess) -> str:
    size = "" if process.used is None else f": {gibibytes(process.used)} GiB"
    if process.pid == os.getpid():
        return f"this process{size}"
    return f"{process.name.rpartition('/')[2]}, process {process.pid}{size}"
