"""The manager: takes versions through their states, and publishes a view of them to the request handlers.

                 load, run its warm-up                   no longer aspired, and another one serves (or none should)
    START ───► LOADING ───────────────────► AVAILABLE ───────────────────────────────────► UNLOADING ───► END
      │           │  ▲                                                                                     ▲
      │           │  └── a try failed: the next one is after a while, or when the folder has changed       │
      │           └── every try failed, or no longer aspired: END keeps the error ─────────────────────────┤
      └────────────── no longer aspired ───────────────────────────────────────────────────────────────────┘

A version is *aspired* while the source selects it. Swaps preserve availability: a version that is no longer aspired
serves until an aspired one is AVAILABLE. So a new version that fails leaves the old one serving. A handle keeps its
version alive: UNLOADING waits for the last handle before it frees the version. A version in END stays in the status. It
is loaded again only after its folder was removed from the disk, or when it had failed and its folder has changed. A
folder that is being written changes all the time, so a change counts when two scans in a row see the same contents.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tfserving.serving.embedded.core.version_folder import Contents, contents
from tfserving.serving.embedded.core.view import Labels, State, Status, View
from tfserving.serving.embedded.errors import Code, RequestError

log = logging.getLogger(__name__)

# Loading is mostly Python code that works on the graph, of which only one thread runs at a time.
PARALLEL_LOADS = 2


class Plane(Protocol):
    """The processes that load versions and serve requests: this one, or several workers."""

    def load(self, model: str, version: int, path: Path) -> None:
        """Loads a version, which serves once it is available in the current view. Raises RequestError."""

    def unload(self, model: str, version: int) -> None:
        """Frees a version that is in no view any more, when its last handle is released."""

    def show(self, view: View) -> None:
        """Makes `view` the current view of all requests from now on."""


@dataclass(eq=False)
class _Version:
    model: str
    number: int
    path: Path
    aspired: bool = True
    state: State = State.START
    # The error of the last try.
    error: RequestError | None = None
    # The contents of its folder at the last try, and at the last scan.
    tried: Contents = ()
    seen: Contents = ()
    # Whether the folder has changed since the last try began.
    changed: bool = False
    # Ends the wait for the next try.
    awake: threading.Event = field(default_factory=threading.Event)

    @property
    def has_failed(self) -> bool:
        """Whether a change of its folder is a reason for another try."""
        return self.aspired and self.error is not None and self.state in (State.LOADING, State.END)

    def look(self, path: Path) -> None:
        """Checks whether the folder, now at `path`, has changed since the last try and is no longer being written."""
        before, self.seen = self.seen, contents(path)
        self.changed = self.seen == before and self.seen != self.tried


def _failure(version: _Version) -> str:
    why = f"{version.error.code.name}: {version.error}" if version.error else f"is in state {version.state.name}"
    return f"version {version.number} in {version.path}: {why}"


class Manager:
    """Loads aspired versions in `plane`, publishes them, and unloads the others.

    A load that fails is retried `retries` times, `retry_seconds` apart.
    """

    def __init__(self, plane: Plane, *, retries: int = 0, retry_seconds: float = 0) -> None:
        self._plane = plane
        self._retries = retries
        self._retry_seconds = retry_seconds
        self._labels: Labels = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._models: dict[str, dict[int, _Version]] = {}
        self._loads = threading.BoundedSemaphore(PARALLEL_LOADS)
        self._stopping = threading.Event()

    def aspire(self, model: str, versions: Mapping[int, Path]) -> None:
        """Aspires exactly `versions` of `model`; returns before they are served."""
        # Reading the disk may take long, so it happens without the lock.
        for version in self._failed_versions(model):
            if version.number in versions:
                version.look(versions[version.number])
        with self._changed:
            if self._stopping.is_set():
                return
            is_new = model not in self._models
            known = self._models.setdefault(model, {})
            before = [(version, version.aspired) for version in known.values()]
            for number, version in known.items():
                if version.aspired and number not in versions:
                    version.aspired = False
                    version.awake.set()
            for number, path in versions.items():
                had = known.get(number)
                if had is None or (had.state is State.END and (not had.aspired or had.changed)):
                    known[number] = _Version(model, number, path)
                    continue
                had.aspired = True
                if had.changed:
                    had.path = path
                    had.awake.set()
            # Most polls change nothing.
            if is_new or before != [(version, version.aspired) for version in known.values()]:
                self._advance(model)

    def _failed_versions(self, model: str) -> list[_Version]:
        with self._changed:
            return [version for version in self._models.get(model, {}).values() if version.has_failed]

    def assign_labels(self, labels: Labels, *, allow_unavailable: bool) -> None:
        """Replaces the labels of all models.

        With `allow_unavailable` a new label may name a version that isn't available, but an existing label can't be
        moved to such a version. Raises RequestError FAILED_PRECONDITION, and then all labels stay as they are.
        """
        with self._changed:
            for model, named in labels.items():
                before = self._labels.get(model, {})
                for label, number in sorted(named.items()):
                    version = self._models.get(model, {}).get(number)
                    available = version is not None and version.state is State.AVAILABLE
                    if not available and not (allow_unavailable and before.get(label, number) == number):
                        text = (
                            f"Request to assign label to version {number} of model {model}, which is not currently "
                            "available for inference"
                        )
                        raise RequestError(
                            Code.FAILED_PRECONDITION, text, f"label {label!r}; {self._view().describe_available(model)}"
                        )
            self._labels = {model: dict(named) for model, named in labels.items()}
            self._plane.show(self._view())

    def available(self) -> dict[str, list[int]]:
        """Returns the available versions of every model, lowest first."""
        with self._changed:
            return self._view().available()

    def wait_until_settled(self, wake: threading.Event) -> None:
        """Waits until every aspired version is AVAILABLE or at its END, or until `wake` is set."""
        with self._changed:
            while not wake.is_set() and any(
                version.aspired and version.state not in (State.AVAILABLE, State.END)
                for known in self._models.values()
                for version in known.values()
            ):
                # A signal handler can set `wake` but not notify.
                self._changed.wait(0.1)

    def wait_for_any(self, models: Collection[str], until: float) -> list[str] | None:
        """Waits until each of `models` has an available version, or all its versions have failed.

        Returns, for each model without an available version, which version failed and why. Returns None when that
        takes longer than `until`, in seconds of time.monotonic.
        """
        with self._changed:
            while not self._stopping.is_set() and any(self._is_underway(model) for model in models):
                if time.monotonic() > until:
                    return None
                self._changed.wait(0.1)
            return [failed for model in models for failed in self._failed(model)]

    def _is_underway(self, model: str) -> bool:
        states = [version.state for version in self._models.get(model, {}).values() if version.aspired]
        return State.AVAILABLE not in states and any(state is not State.END for state in states)

    def _failed(self, model: str) -> list[str]:
        """Returns which version failed of a model that has no available version."""
        versions = sorted(self._models.get(model, {}).values(), key=lambda version: version.number)
        if any(version.state is State.AVAILABLE for version in versions):
            return []
        return [
            f"{{{{name: {model} version: {version.number}}} due to error: {error.code.name}: {error.text}}}"
            for version in versions
            if (error := version.error)
        ][:1]

    def failures(self) -> list[str]:
        """Returns, for each model without an available version, which versions failed, from which folder, and why."""
        with self._changed:
            return [
                f"model {model!r} " + ("; ".join(map(_failure, known.values())) or "has no version")
                for model, known in self._models.items()
                if not any(version.state is State.AVAILABLE for version in known.values())
            ]

    def stop(self, seconds: float) -> bool:
        """Unloads all versions, and waits up to `seconds` for handles in use; returns whether all were released."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._stopping.set()
            for model, known in self._models.items():
                for version in known.values():
                    version.aspired = False
                    version.awake.set()
                self._advance(model)
            # A load in progress isn't waited for: it ends with the process.
            held = (State.AVAILABLE, State.UNLOADING)
            while any(v.state in held for known in self._models.values() for v in known.values()):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._changed.wait(min(remaining, 1))
        return True

    def _advance(self, model: str) -> None:
        """Starts the loads and unloads that are allowed now; called with the lock held after each change."""
        versions = self._models[model].values()
        begun: list[threading.Thread] = []
        for version in versions:
            if version.state is State.START:
                if version.aspired:
                    version.state = State.LOADING
                    begun.append(threading.Thread(target=self._run_load, args=(version,), name="load", daemon=True))
                else:
                    version.state = State.END
        replaced = any(version.aspired and version.state is State.AVAILABLE for version in versions)
        if replaced or not any(version.aspired for version in versions):
            for version in versions:
                if not version.aspired and version.state is State.AVAILABLE:
                    version.state = State.UNLOADING
                    begun.append(threading.Thread(target=self._run_unload, args=(version,), name="unload", daemon=True))
        # No request may get a version that is being unloaded.
        self._plane.show(self._view())
        for thread in begun:
            thread.start()
        self._changed.notify_all()

    def _view(self) -> View:
        return View(
            {
                model: {n: Status(n, version.state, version.error) for n, version in known.items()}
                for model, known in self._models.items()
            },
            self._labels,
        )

    def _run_load(self, version: _Version) -> None:
        """LOADING → AVAILABLE or END."""
        left = self._retries
        while (error := self._try(version)) is not None:
            # A version that is not permitted now won't be permitted in a minute either.
            left = left if version.aspired and error.code is not Code.PERMISSION_DENIED else 0
            log.error(
                "model %r version %d failed to load from %s: %s: %s%s",
                *(version.model, version.number, version.path, error.code.name, error),
                f"; retrying in {self._retry_seconds:g} s, {left} more times" if left else "",
            )
            if not left or not self._wait(version, error):
                break
            left = self._retries if version.changed else left - 1
            version.changed = False
        with self._changed:
            version.error, version.state = error, State.END if error else State.AVAILABLE
            if not error:
                log.info("model %r version %d is available", version.model, version.number)
            self._advance(version.model)

    def _try(self, version: _Version) -> RequestError | None:
        """Loads a version; returns the error if that fails."""
        with self._loads:
            version.tried = contents(version.path)
            try:
                log.info("loading model %r version %d from %s", version.model, version.number, version.path)
                self._plane.load(version.model, version.number, version.path)
            except RequestError as error:
                return error
            except Exception as error:
                log.exception("loading model %r version %d failed", version.model, version.number)
                return RequestError(Code.INTERNAL, f"{type(error).__name__}: {error}")
            return None

    def _wait(self, version: _Version, error: RequestError) -> bool:
        """Waits until the next try of a version that failed; returns whether it is still aspired."""
        with self._changed:
            version.error = error
            self._plane.show(self._view())
        version.awake.wait(self._retry_seconds)
        version.awake.clear()
        return version.aspired

    def _run_unload(self, version: _Version) -> None:
        """UNLOADING → END, once no handle is left."""
        self._plane.unload(version.model, version.number)
        log.info("model %r version %d is unloaded", version.model, version.number)
        with self._changed:
            version.state = State.END
            if version.aspired:
                # It was aspired again meanwhile.
                self._models[version.model][version.number] = _Version(version.model, version.number, version.path)
            self._advance(version.model)
