"""The request log: a sample of requests and responses, as PredictionLog records in TFRecord files.

            note                 take                      append
    a request ──► waiting ──────────────► its record ──────────────► OK
              │                     │                  │
              │ too much waits      │ it is invalid    │ the disk is full: retried in a second
              ▼                     ▼                  ▼
        RESOURCE_EXHAUSTED       INTERNAL           UNKNOWN          statuses of `request_log_count`

Such a file works as a warm-up file, and TensorFlow's data tools read it. A thread converts and writes the records.
When it can't keep up, records are dropped and counted. Requests don't wait.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tfserving.foundation.messages import PredictionLog
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.observability.current_request import current_request
from tfserving.serving.embedded.observability.record_files import RecordFiles

log = logging.getLogger(__name__)

MOST_WAITING_BYTES = 2**26
# The memory of a waiting request besides its tensors.
OVERHEAD_BYTES = 2**10
RETRY_SECONDS = 1.0

# Fills the record's request and response.
Fill = Callable[[Any], None]


class _Noted(NamedTuple):
    model: str
    version: int
    fill: Fill
    size: int


class RequestLog:
    """Logs each request with the probability `rate`, to files with a prefix: see RecordFiles."""

    def __init__(self, prefix: Path, rate: float = 1.0, most: int = 0, processes: int = 1) -> None:
        """All files of this log, written by `processes` processes, have at most `most` bytes; 0 is no limit.

        Raises StartError when no file can be created.
        """
        self._rate = rate
        try:
            self._files = RecordFiles(prefix, most, processes)
        except OSError as error:
            raise StartError(
                f"--request_log={prefix}: can't write {error.filename or prefix}: {error.strerror}"
            ) from None
        self._waiting: deque[_Noted] = deque()
        self._bytes = 0
        self._ended = False
        self._changed = threading.Condition()
        self._lost = 0
        self._retry_at = 0.0
        self._reported: set[type[Exception]] = set()
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def wants(self) -> bool:
        """Returns whether to log the request that has just completed."""
        return random.random() < self._rate  # noqa: S311 - no secret

    def note(self, fill: Fill, size: int) -> None:
        """Logs the request that this thread has just completed. Another thread calls `fill` later.

        `size` is the memory that `fill` occupies, in bytes.
        """
        model, version = current_request.model or "", current_request.version or 0
        size += OVERHEAD_BYTES
        with self._changed:
            fits = self._bytes + size <= MOST_WAITING_BYTES and size <= self._files.largest and not self._ended
            if fits:
                self._bytes += size
                self._waiting.append(_Noted(model, version, fill, size))
                self._changed.notify()
        if not fits:
            metrics.REQUEST_LOGS.add(model, "RESOURCE_EXHAUSTED")

    def close(self, seconds: float) -> None:
        """Waits until all requests are in the file, or `seconds` are over."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            if self._waiting:
                log.warning("%d requests were not logged, because the server stopped", len(self._waiting))

    def _work(self) -> None:
        while (noted := self._take()) is not None:
            metrics.REQUEST_LOGS.add(noted.model, self._log(noted))
            with self._changed:
                self._bytes -= noted.size
        self._files.close()

    def _take(self) -> _Noted | None:
        with self._changed:
            while not self._waiting:
                if self._ended:
                    return None
                self._changed.wait()
            return self._waiting.popleft()

    def _log(self, noted: _Noted) -> str:
        """Logs one request and returns its status. Never raises, so no request ends the thread."""
        if time.monotonic() < self._retry_at:
            self._lost += 1
            return "UNKNOWN"
        try:
            self._files.append(self._record(noted))
        except OSError as error:
            if not self._lost:
                log.error("can't write requests to %s: %s", self._files.path, error.strerror or error)
            self._lost += 1
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return "UNKNOWN"
        except Exception as error:
            if type(error) not in self._reported:
                self._reported.add(type(error))
                log.exception(
                    "a request to the model %r could not be logged; further such errors are only counted", noted.model
                )
            return "INTERNAL"
        if self._lost:
            log.warning("requests are logged again, to %s; %d were lost", self._files.path, self._lost)
        self._lost = 0
        return "OK"

    def _record(self, noted: _Noted) -> bytes:
        record = PredictionLog()
        record.log_metadata.model_spec.name = noted.model
        record.log_metadata.model_spec.version.value = noted.version
        record.log_metadata.sampling_config.sampling_rate = self._rate
        noted.fill(record)
        data: bytes = record.SerializeToString()
        return data
