"""The manager: takes versions through their states, and hands out handles to those that are available.

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

import enum
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from serving.embedded.errors import Code, RequestError
from serving.embedded.loader import Servable

log = logging.getLogger(__name__)

Load = Callable[[str, int, Path], Servable]

# Loading is mostly Python's work on the graph, which runs in one thread at a time anyway.
PARALLEL_LOADS = 2


class State(enum.IntEnum):
    """A version's state; the numbers are those of `tensorflow.serving.ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class Status:
    """What the status call says of one version; `error` is why a version that ended never became available."""

    version: int
    state: State
    error: RequestError | None


@dataclass
class _Version:
    lock: threading.Lock
    changed: threading.Condition
    model: str
    number: int
    path: Path
    aspired: bool = True
    state: State = State.START
    error: RequestError | None = None
    servable: Servable | None = None
    handles: int = 0

    # A version is its own handle: every request takes one, and nothing has to be made for it.
    def __enter__(self) -> Servable:
        assert self.servable is not None
        return self.servable

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.lock:
            self.handles -= 1
            if self.state is State.UNLOADING:
                self.changed.notify_all()


def _failure(version: _Version) -> str:
    why = f"{version.error.code.name}: {version.error}" if version.error else f"is in state {version.state.name}"
    return f"version {version.number} in {version.path}: {why}"


# Keeps a version alive while a request uses it.
Handle = AbstractContextManager[Servable]


class Manager:
    """Loads aspired versions with `load`, serves them, and unloads the others.

    A load that fails is tried again `retries` times, `retry_seconds` apart.
    """

    def __init__(self, load: Load, *, retries: int = 0, retry_seconds: float = 0) -> None:
        self._load = load
        self._retries = retries
        self._retry_seconds = retry_seconds
        # By model, what its labels name.
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._models: dict[str, dict[int, _Version]] = {}
        # By model, its highest available version.
        self._latest: dict[str, _Version | None] = {}
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
                    known[number] = self._new(model, number, path)
                else:
                    had.aspired = True
            self._advance(model)

    def assign_labels(self, labels: Mapping[str, Mapping[str, int]], *, allow_unavailable: bool) -> None:
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
                            Code.FAILED_PRECONDITION, text, f"label {label!r}; {self._what_there_is(model)}"
                        )
            self._labels = {model: dict(named) for model, named in labels.items()}

    def handle(self, model: str, version: int | None = None, label: str | None = None) -> Handle:
        """A handle to an available version of `model`: the one called `label`, number `version`, or the highest.

        Raises RequestError: NOT_FOUND when it is not available, INVALID_ARGUMENT for an unknown label.
        """
        if label is not None:
            version = self._labelled(model, label)
        with self._lock:
            chosen = self._latest.get(model) if version is None else self._models.get(model, {}).get(version)
            if chosen is None or chosen.state is not State.AVAILABLE:
                raise self._not_found(model, version)
            chosen.handles += 1
            return chosen

    def statuses(self, model: str, version: int | None = None) -> list[Status]:
        """The status of every version of `model` that there ever was, highest first, or of number `version` alone.

        Raises RequestError NOT_FOUND when there is none.
        """
        with self._changed:
            known = self._models.get(model, {})
            numbers = sorted(known, reverse=True) if version is None else [n for n in (version,) if n in known]
            found = [Status(n, known[n].state, known[n].error) for n in numbers]
        if found:
            return found
        text = f"Could not find {'any versions' if version is None else f'version {version}'} of model {model}"
        raise RequestError(Code.NOT_FOUND, text, self._what_there_is(model))

    def available(self) -> dict[str, list[int]]:
        """The available versions of every model, lowest first."""
        with self._changed:
            return {
                model: sorted(n for n, version in known.items() if version.state is State.AVAILABLE)
                for model, known in self._models.items()
            }

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

    def wait_for_any(self, models: Collection[str]) -> list[str]:
        """Waits until each of `models` has an available version, or has none that is still to come.

        Answers, for each that has none available, which version failed and why.
        """
        with self._changed:
            while not self._stopping.is_set() and any(self._is_underway(model) for model in models):
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
        for version in versions:
            if version.state is State.START:
                if version.aspired:
                    version.state = State.LOADING
                    threading.Thread(target=self._run_load, args=(version,), name="load", daemon=True).start()
                else:
                    version.state = State.END
        replaced = any(version.aspired and version.state is State.AVAILABLE for version in versions)
        if replaced or not any(version.aspired for version in versions):
            for version in versions:
                if not version.aspired and version.state is State.AVAILABLE:
                    version.state = State.UNLOADING
                    threading.Thread(target=self._run_unload, args=(version,), name="unload", daemon=True).start()
        available = [version for version in versions if version.state is State.AVAILABLE]
        self._latest[model] = max(available, key=lambda version: version.number, default=None)
        self._changed.notify_all()

    def _run_load(self, version: _Version) -> None:
        """LOADING → AVAILABLE or END."""
        servable, error = None, None
        for tries in range(self._retries + 1):
            with self._loads:
                try:
                    log.info("loading model %r version %d from %s", version.model, version.number, version.path)
                    servable = self._load(version.model, version.number, version.path)
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
            if servable is None:
                version.error, version.state = error, State.END
            else:
                version.servable, version.state = servable, State.AVAILABLE
                log.info("model %r version %d is available", version.model, version.number)
            self._advance(version.model)

    def _run_unload(self, version: _Version) -> None:
        """UNLOADING → END, once no handle is left."""
        with self._changed:
            while version.handles:
                self._changed.wait()
            servable, version.servable = version.servable, None
        if servable is not None:
            servable.close()
            del servable
        log.info("model %r version %d is unloaded", version.model, version.number)
        with self._changed:
            version.state = State.END
            if version.aspired:
                # It was wanted again meanwhile.
                self._models[version.model][version.number] = self._new(version.model, version.number, version.path)
            self._advance(version.model)

    def _new(self, model: str, number: int, path: Path) -> _Version:
        return _Version(self._lock, self._changed, model, number, path)

    def _labelled(self, model: str, label: str) -> int:
        known = self._labels.get(model, {})
        if label in known:
            return known[label]
        names = ", ".join(repr(name) for name in sorted(known)) or "no labels"
        raise RequestError(
            Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}", f"model {model!r} has {names}"
        )

    def _not_found(self, model: str, version: int | None) -> RequestError:
        wanted = f"Latest({model})" if version is None else f"Specific({model}, {version})"
        return RequestError(Code.NOT_FOUND, f"Servable not found for request: {wanted}", self._what_there_is(model))

    def _what_there_is(self, model: str) -> str:
        """Which models, or which versions of `model`, could have been asked for. The lock is not needed for a text."""
        known = self._models.get(model)
        if known is None:
            names = ", ".join(map(repr, sorted(self._models)))
            return f"no model is called {model!r}, this server has {names}"
        numbers = sorted(n for n, v in list(known.items()) if v.state is State.AVAILABLE)
        return f"model {model!r} has {f'versions {numbers} available' if numbers else 'no version available'}"
