"""The source: polls base paths and selects the versions to serve."""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tfserving.serving.embedded.core.model_config import Model
from tfserving.serving.embedded.core.version_folder import GRAPHS

log = logging.getLogger(__name__)

# TensorFlow Serving reads folder names as 64-bit integers: 00000123 is version 123.
VERSION = re.compile(r"-?[0-9]{1,19}", re.ASCII)
LARGEST_VERSION = 2**63 - 1

# A scan that takes long, for example of tens of thousands of entries, is followed by a pause this many times as long.
LEAST_REST = 10

Aspire = Callable[[str, Mapping[int, Path]], None]


class Source:
    """Calls `aspire`, for each model, with the versions on disk that its policy selects.

    A folder whose name is not an integer is never a version. So a version that is being written beside the others,
    under a name like `.tmp-7`, is not served before it is renamed.
    """

    def __init__(self, models: Sequence[Model], aspire: Aspire) -> None:
        self._models = models
        self._aspire = aspire
        # Held while polling, so that no version is aspired for a model that was just removed.
        self._lock = threading.Lock()
        self._ended = threading.Event()
        # The last line that was logged for each model.
        self._logged: dict[str, str] = {}
        self._thread: threading.Thread | None = None
        # How long the last poll took to list the base paths.
        self._listing_seconds = 0.0

    def watch(self, models: Sequence[Model]) -> None:
        """Replaces the polled models, and polls at once. No version of a model that is gone is aspired any more."""
        with self._lock:
            gone = {model.name for model in self._models} - {model.name for model in models}
            self._models = models
            for name in gone:
                self._aspire(name, {})
        self.poll()

    def poll(self) -> None:
        """Scans every base path once.

        A base path that can't be read leaves its model as it is. That is logged once, and so are missing versions that
        a policy names.
        """
        with self._lock:
            self._poll()

    def _poll(self) -> None:
        for model in self._models:
            started = time.monotonic()
            try:
                versions = list_versions(model.base_path)
            except OSError as error:
                self._log(model, f"can't read {model.base_path}: {error.strerror}; its versions stay as they are")
                continue
            finally:
                self._listing_seconds += time.monotonic() - started
            missing = sorted(set(model.policy.specific) - versions.keys())
            self._log(model, f"{model.base_path} contains no version {', '.join(map(str, missing))}" if missing else "")
            self._aspire(model.name, {version: versions[version] for version in model.policy.choose(list(versions))})

    def _log(self, model: Model, trouble: str) -> None:
        """Logs `trouble` unless it was the last line for this model. Empty: the model has no trouble any more."""
        if trouble and trouble != self._logged.get(model.name):
            log.warning("model %r: %s", model.name, trouble)
        self._logged[model.name] = trouble

    def start(self, seconds: float) -> None:
        """Polls every `seconds` in a thread; 0 and less turn polling off, as in TensorFlow Serving."""
        if seconds <= 0:
            return
        self._thread = threading.Thread(target=self._follow, args=(seconds,), name="source", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the polling. No version is aspired after this returns."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self, seconds: float) -> None:
        pause = seconds
        while not self._ended.wait(pause):
            self._listing_seconds = 0.0
            self.poll()
            pause = max(seconds, LEAST_REST * self._listing_seconds)


def list_versions(base_path: Path) -> dict[int, Path]:
    """Returns the versions in `base_path` with their folders, lowest first. Raises OSError when it can't be read."""
    with os.scandir(base_path) as entries:
        numbered = sorted((entry for entry in entries if VERSION.fullmatch(entry.name)), key=lambda entry: entry.name)
    found: dict[int, Path] = {}
    for entry in numbered:
        if abs(int(entry.name)) <= LARGEST_VERSION and _is_folder(entry):
            found.setdefault(int(entry.name), Path(entry.path))
    return dict(sorted(found.items()))


def describe_contents(base_path: Path) -> str:
    """Returns a hint for a base path that contains no version."""
    for name in GRAPHS:
        if os.path.lexists(base_path / name):
            return f"move {name}, and all files beside it, into a folder named 1"
    return "a version is a folder whose name is an integer"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        # A link that leads to itself is no folder. An entry without permission may be one: then its load fails.
        return error.errno != errno.ELOOP
