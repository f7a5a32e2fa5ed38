"""The request log: some of the requests and their answers, as PredictionLog records in TFRecord files.

Such a file can be played as warm-up, and is what TensorFlow's data tools read. Converting and writing is done by a
thread of its own; when it can't keep up records are dropped, and counted, rather than requests kept waiting.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfserving.foundation.messages import PredictionLog
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.observability.asked import asked

log = logging.getLogger(__name__)

MOST_WAITING = 1000
LARGEST_FILE = 2**30

# Fills the record's request and response.
Fill = Callable[[Any], None]


class RequestLog:
    """Logs a request with the probability `rate`, to PREFIX-TIME-PROCESS.tfrecord; a new file begins at 1 GiB."""

    def __init__(self, prefix: Path, rate: float = 1.0) -> None:
        """Raises StartError when no file can be made there."""
        self._prefix = prefix
        self._rate = rate
        self._waiting: queue.Queue[tuple[str, int, Fill] | None] = queue.Queue(MOST_WAITING)
        self._failing = False
        self._path = self._new_path()
        try:
            self._create()
        except OSError as error:
            raise StartError(f"--request_log={prefix}: {self._path}: {error.strerror}") from None
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def wants(self) -> bool:
        """Whether the request that was answered is one of those that are logged."""
        return random.random() < self._rate  # noqa: S311 - nobody gains anything by guessing it

    def note(self, fill: Fill) -> None:
        """Logs the request that this thread has just answered; `fill` is called later, by another thread."""
        model, version = asked.model or "", asked.version or 0
        try:
            self._waiting.put_nowait((model, version, fill))
        except queue.Full:
            metrics.REQUEST_LOGS.add(model, "RESOURCE_EXHAUSTED")

    def close(self) -> None:
        """Returns when all that was noted is in the file."""
        self._waiting.put(None)
        self._thread.join()

    def _new_path(self) -> Path:
        now = time.time_ns()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
        name = f"{self._prefix.name}-{stamp}.{now // 1000 % 10**6:06}-{os.getpid()}.tfrecord"
        return self._prefix.with_name(name)

    def _create(self) -> None:
        # What clients sent is nobody else's business.
        os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def _work(self) -> None:
        import tensorflow as tf

        writer = tf.io.TFRecordWriter(str(self._path))
        while (noted := self._waiting.get()) is not None:
            model, version, fill = noted
            try:
                writer.write(self._record(model, version, fill))
                if self._waiting.empty():
                    writer.flush()
                if self._path.stat().st_size > LARGEST_FILE:
                    writer.close()
                    self._path = self._new_path()
                    self._create()
                    writer = tf.io.TFRecordWriter(str(self._path))
            except (OSError, tf.errors.OpError) as error:
                self._fail(model, error)
            else:
                self._failing = False
                metrics.REQUEST_LOGS.add(model, "OK")
        writer.close()

    def _record(self, model: str, version: int, fill: Fill) -> bytes:
        record = PredictionLog()
        record.log_metadata.model_spec.name = model
        record.log_metadata.model_spec.version.value = version
        record.log_metadata.sampling_config.sampling_rate = self._rate
        fill(record)
        data: bytes = record.SerializeToString()
        return data

    def _fail(self, model: str, error: Exception) -> None:
        metrics.REQUEST_LOGS.add(model, "UNKNOWN")
        if not self._failing:
            log.error("requests are not logged to %s: %s", self._path, error)
        self._failing = True
