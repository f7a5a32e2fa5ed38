"""Which models are served, and how that changes while the server runs.

    the flags or a file, at the start ──┐
    the file, when it is polled ────────┼──► checked whole ──► labels ──► source ──► the manager loads and unloads
    HandleReloadConfigRequest ──────────┘          └── wrong: nothing changes

As in TensorFlow Serving, labels are assigned before anything is loaded, so a label can only name a version that is
available already, and only models that are new are waited for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Protocol

from tfserving.serving.embedded.core.manager import Manager
from tfserving.serving.embedded.core.model_config import Model, read_config
from tfserving.serving.embedded.core.source import Source, describe_contents, list_versions
from tfserving.serving.embedded.errors import Code, RequestError, StartError

log = logging.getLogger(__name__)

# How many changes wait for each other, and how long one waits for its models.
MOST_CHANGES = 8
LONGEST_SECONDS = 600.0


class Reloadable(Protocol):
    """What those who answer requests know of the configuration."""

    @property
    def names(self) -> frozenset[str]:
        """The models that are to be served."""

    def apply(self, models: Sequence[Model], seconds: float | None = None) -> None:
        """Serves `models` instead of those before; waits for new ones for so long. Raises RequestError."""


class Configuration:
    """The models that are served now, and the way to others."""

    def __init__(self, models: Sequence[Model], manager: Manager, source: Source, *, allow_any_label: bool) -> None:
        """`models` are those that `source` looks at; with `allow_any_label` new labels may name any version."""
        self._names = {model.name for model in models}
        self._manager = manager
        self._source = source
        self._allow_any_label = allow_any_label
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(MOST_CHANGES)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def names(self) -> frozenset[str]:
        """The models that are to be served."""
        return frozenset(self._names)

    def apply(self, models: Sequence[Model], seconds: float | None = None) -> None:
        """Serves `models` instead of those before; returns when each new one has an available version.

        Raises RequestError: FAILED_PRECONDITION for a label of a version that is not available, NOT_FOUND for a model
        without versions, RESOURCE_EXHAUSTED when too many changes wait and DEADLINE_EXCEEDED when those before it take
        longer than `seconds`, and then nothing has changed; UNKNOWN when a new model failed to load,
        DEADLINE_EXCEEDED when one is not there after `seconds`.
        """
        until = monotonic() + (LONGEST_SECONDS if seconds is None else min(seconds, LONGEST_SECONDS))
        if not self._room.acquire(blocking=False):
            text = f"{MOST_CHANGES} changes of the configuration are under way already; try again later"
            raise RequestError(Code.RESOURCE_EXHAUSTED, text)
        try:
            self._apply(models, until)
        finally:
            self._room.release()

    def _apply(self, models: Sequence[Model], until: float) -> None:
        if not self._lock.acquire(timeout=max(0.0, until - monotonic())):
            text = "Another change of the configuration is under way"
            raise RequestError(Code.DEADLINE_EXCEEDED, text, "nothing has changed")
        try:
            new = [model for model in models if model.name not in self._names]
            for model in new:
                _check_versions(model)
            labels = {model.name: model.labels for model in models}
            self._manager.assign_labels(labels, allow_unavailable=self._allow_any_label)
            self._names = {model.name for model in models}
            self._source.watch(models)
            failed = self._manager.wait_for_any([model.name for model in new], until)
        finally:
            self._lock.release()
        if failed is None:
            text = "The new models are not available yet"
            raise RequestError(Code.DEADLINE_EXCEEDED, text, "the configuration is applied; they are loaded on")
        if failed:
            listed = "".join(f"{failure}, " for failure in failed)
            raise RequestError(Code.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{listed}}}")

    def follow(self, path: Path, seconds: float) -> None:
        """Applies the file `path` every `seconds` from now on; 0 and less mean never."""
        if seconds <= 0:
            return
        self._thread = threading.Thread(target=self._follow, args=(path, seconds), name="configuration", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the polling; what it is waiting for is not waited for."""
        self._ended.set()

    def _follow(self, path: Path, seconds: float) -> None:
        reported = ""
        while not self._ended.wait(seconds):
            problem = ""
            try:
                self.apply(read_config(path, self._names))
            except (StartError, RequestError) as error:
                problem = str(error)
            if problem and problem != reported:
                log.error("%s is not applied: %s", path, problem)
            reported = problem


def _check_versions(model: Model) -> None:
    # The real server waits for a new model without versions for ever, and keeps all later changes waiting.
    try:
        versions = list_versions(model.base_path)
    except OSError as error:
        text = f"Could not find base path {model.base_path} for servable {model.name}"
        raise RequestError(Code.NOT_FOUND, text, str(error.strerror)) from None
    if not model.policy.choose(list(versions)):
        text = f"No versions of servable {model.name} found under base path {model.base_path}"
        what = f"it has {list(versions)}" if versions else describe_contents(model.base_path)
        raise RequestError(Code.NOT_FOUND, text, what)
