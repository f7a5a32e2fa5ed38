"""The manager: takes versions through their states, and shows what there is to those who answer requests.

                 load, play its warm-up                  no longer aspired, and another one serves (or none should)
    START ───► LOADING ───────────────────► AVAILABLE ───────────────────────────────────► UNLOADING ───► END
      │           │                                                                                        ▲
      │           └── every try failed: END keeps the error ───────────────────────────────────────────────┤
      └────────────── no longer aspired ───────────────────────────────────────────────────────────────────┘

A version is *aspired* while the source wants it. Swaps preserve availability: a version that is no longer aspired
serves until one that is has become AVAILABLE, so a new version that fails leaves the old one serving. A handle
keeps its version alive: UNLOADING waits for the last one before anything is freed. A version in END stays in the
status; it is loaded again only after it was gone from the disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tfserving.serving.embedded.core.view import Labels, State, Status, View
from tfserving.serving.embedded.errors import Code, RequestError

log = logging.getLogger(__name__)

# Loading is mostly Python's work on the graph, which runs in one thread at a time anyway.
PARALLEL_LOADS = 2


class Plane(Protocol):
    """Where versions are loaded and requests answered: this process, or several."""

    def load(self, model: str, version: int, path: Path) -> None:
        """Loads a version, which serves once a view says that it is available. Raises RequestError."""

    def unload(self, model: str, version: int) -> None:
        """Frees a version that no view has any more, when its last handle is given back."""

    def show(self, view: View) -> None:
        """Makes `view` what requests see from now on."""


@dataclass
class _Version:
    model: str
    number: int
    path: Path
    aspired: bool = True
    state: State = State.START
    error: RequestError | None = None


def _failure(version: _Version) -> str:
    why = f"{version.error.code.name}: {version.error}" if version.error else f"is in state {version.state.name}"
    return f"version {version.number} in {version.path}: {why}"


class Manager:
    """Loads aspired versions in `plane`, has them served, and unloads the others.

    A load that fails is tried again `retries` times, `retry_seconds` apart.
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
        """Says that exactly `versions` of `model` should be served; returns before they are."""
        with self._changed:
            if self._stopping.is_set():
                return
            known = self._models.setdefault(model, {})
            for number, version in known.items():
                version.aspired = version.aspired and number in versions
            for number, path in versions.items():
                had = known.get(number)
                if had is None or (had.state is State.END and not had.aspired):
                    known[number] = _Version(model, number, path)
                else:
                    had.aspired = True
            self._advance(model)

    def assign_labels(self, labels: Labels, *, allow_unavailable: bool) -> None:
        """Says what the labels of each model name from now on, instead of all that was said before.

        With `allow_unavailable` a new label may name a version that isn't available; one that there was may not be
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
                            Code.FAILED_PRECONDITION, text, f"label {label!r}; {self._view().what_there_is(model)}"
                        )
            self._labels = {model: dict(named) for model, named in labels.items()}
            self._plane.show(self._view())

    def available(self) -> dict[str, list[int]]:
        """The available versions of every model, lowest first."""
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
        """Waits until each of `models` has an available version, or has none that is still to come.

        Returns, for each that has none available, which version failed and why; None when it is `until`, in seconds of
        time.monotonic, before that.
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
        """What failed of a model that has no available version."""
        versions = sorted(self._models.get(model, {}).values(), key=lambda version: version.number)
        if any(version.state is State.AVAILABLE for version in versions):
            return []
        return [
            f"{{{{name: {model} version: {version.number}}} due to error: {error.code.name}: {error.text}}}"
            for version in versions
            if (error := version.error)
        ][:1]

    def failures(self) -> list[str]:
        """For each model that has no available version: which versions failed to load, from where, and why."""
        with self._changed:
            return [
                f"model {model!r} " + ("; ".join(map(_failure, known.values())) or "has no version")
                for model, known in self._models.items()
                if not any(version.state is State.AVAILABLE for version in known.values())
            ]

    def stop(self, seconds: float) -> bool:
        """Unloads everything, waiting at most `seconds` for the handles in use; returns whether all ended."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._stopping.set()
            for model, known in self._models.items():
                for version in known.values():
                    version.aspired = False
                self._advance(model)
            # What is still being loaded is left behind: it ends with the process.
            held = (State.AVAILABLE, State.UNLOADING)
            while any(v.state in held for known in self._models.values() for v in known.values()):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._changed.wait(min(remaining, 1))
        return True

    def _advance(self, model: str) -> None:
        """Starts what the policy allows now; called with the lock held whenever something changed."""
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
        # Nobody may be given a version that is being unloaded.
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
        loaded, error = False, None
        for tries in range(self._retries + 1):
            with self._loads:
                try:
                    log.info("loading model %r version %d from %s", version.model, version.number, version.path)
                    self._plane.load(version.model, version.number, version.path)
                    loaded = True
                    break
                except RequestError as failure:
                    error = failure
                except Exception as failure:
                    log.exception("loading model %r version %d failed", version.model, version.number)
                    error = RequestError(Code.INTERNAL, f"{type(failure).__name__}: {failure}")
            left = self._retries - tries
            log.error(
                "model %r version %d failed to load from %s: %s: %s%s",
                *(version.model, version.number, version.path, error.code.name, error),
                f"; tried again in {self._retry_seconds:g} s, {left} more times" if left else "",
            )
            if left and (self._stopping.wait(self._retry_seconds) or not version.aspired):
                break
        with self._changed:
            if not loaded:
                version.error, version.state = error, State.END
            else:
                version.state = State.AVAILABLE
                log.info("model %r version %d is available", version.model, version.number)
            self._advance(version.model)

    def _run_unload(self, version: _Version) -> None:
        """UNLOADING → END, once no handle is left."""
        self._plane.unload(version.model, version.number)
        log.info("model %r version %d is unloaded", version.model, version.number)
        with self._changed:
            version.state = State.END
            if version.aspired:
                # It was wanted again meanwhile.
                self._models[version.model][version.number] = _Version(version.model, version.number, version.path)
            self._advance(version.model)
