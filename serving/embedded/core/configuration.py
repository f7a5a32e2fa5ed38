"""Which models are served, and how that changes while the server runs.

    the flags or a file, at the start ──┐
    the file, when it is polled ────────┼──► checked whole ──► labels ──► source ──► the manager loads and unloads
    HandleReloadConfigRequest ──────────┘          └── wrong: nothing changes

As in TensorFlow Serving, labels are assigned before versions are loaded, so a label can only name a version that is
available already. A change waits only for models that are new.
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

# The number of changes that can be in progress, and how long each waits for its models.
MOST_CHANGES = 8
LONGEST_SECONDS = 600.0


class Reloadable(Protocol):
    """The configuration as the request handlers see it."""

    @property
    def names(self) -> frozenset[str]:
        """The models to serve."""

    def apply(self, models: Sequence[Model], seconds: float | None = None) -> None:
        """Replaces the served models; waits up to `seconds` for new ones. Raises RequestError."""


class Configuration:
    """The models that are served, and how they change."""

    def __init__(self, models: Sequence[Model], manager: Manager, source: Source, *, allow_any_label: bool) -> None:
        """`models` are those that `source` polls. With `allow_any_label` new labels may name any version."""
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
        """The models to serve."""
        return frozenset(self._names)

    def apply(self, models: Sequence[Model], seconds: float | None = None) -> None:
        """Replaces the served models; returns when each new one has an available version.

        Raises RequestError. With FAILED_PRECONDITION for a label of a version that is not available, NOT_FOUND for a
        model without versions, RESOURCE_EXHAUSTED when too many changes wait, and DEADLINE_EXCEEDED when earlier
        changes take longer than `seconds`, nothing has changed. UNKNOWN: a new model failed to load.
        DEADLINE_EXCEEDED, too, when a new model is not available after `seconds`.
        """
        until = monotonic() + (LONGEST_SECONDS if seconds is None else min(seconds, LONGEST_SECONDS))
        if not self._room.acquire(blocking=False):
            text = f"{MOST_CHANGES} changes of the configuration are in progress; try again later"
            raise RequestError(Code.RESOURCE_EXHAUSTED, text)
        try:
            self._apply(models, until)
        finally:
            self._room.release()

    def _apply(self, models: Sequence[Model], until: float) -> None:
        if not self._lock.acquire(timeout=max(0.0, until - monotonic())):
            text = "Another change of the configuration is in progress"
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
            raise RequestError(Code.DEADLINE_EXCEEDED, text, "the configuration is applied, and they are still loading")
        if failed:
            listed = "".join(f"{failure}, " for failure in failed)
            raise RequestError(Code.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{listed}}}")

    def follow(self, path: Path, seconds: float) -> None:
        """Reads and applies the file `path` every `seconds` from now on; 0 and less turn this off."""
        if seconds <= 0:
            return
        self._thread = threading.Thread(target=self._follow, args=(path, seconds), name="configuration", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the polling, without waiting for a change in progress."""
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
                log.error("%s was not applied, and the served models stay as they are: %s", path, problem)
            reported = problem


def _check_versions(model: Model) -> None:
    # TensorFlow Serving waits for a new model without versions, with no time limit, and blocks all later changes.
    try:
        versions = list_versions(model.base_path)
    except OSError as error:
        text = f"Could not find base path {model.base_path} for servable {model.name}"
        raise RequestError(Code.NOT_FOUND, text, str(error.strerror)) from None
    if not model.policy.choose(list(versions)):
        text = f"No versions of servable {model.name} found under base path {model.base_path}"
        what = f"found {list(versions)}" if versions else describe_contents(model.base_path)
        raise RequestError(Code.NOT_FOUND, text, what)
