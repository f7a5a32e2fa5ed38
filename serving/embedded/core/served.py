"""The versions that one process has loaded, and the handles through which requests use them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tfserving.serving.embedded.core.loader import Servable
from tfserving.serving.embedded.core.view import View
from tfserving.serving.embedded.observability.current_request import current_request

Load = Callable[[str, int, Path], Servable]

# Keeps a version alive while a request uses it.
Handle = AbstractContextManager[Servable]


class _Held:
    """A loaded version. It is its own handle, so a request creates no object for it."""

    __slots__ = ("_changed", "_lock", "handles", "leaving", "servable")

    def __init__(self, changed: threading.Condition, lock: threading.Lock, servable: Servable) -> None:
        self._changed = changed
        self._lock = lock
        self.servable = servable
        self.handles = 0
        self.leaving = False

    def __enter__(self) -> Servable:
        return self.servable

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self.handles -= 1
            if self.leaving:
                self._changed.notify_all()


class Current(Protocol):
    """The number of the current view, at index 0: a list, or memory that processes share."""

    def __getitem__(self, index: int, /) -> int:
        """Returns the number."""

    def __setitem__(self, index: int, number: int, /) -> None:
        """Changes it."""


class Served:
    """The versions that `load` has loaded in this process, as the current view shows them.

    `current` holds the number of that view. Processes that share it switch to the next view at the same moment.
    """

    def __init__(self, load: Load, current: Current | None = None) -> None:
        self._load = load
        self._current: Current = [0] if current is None else current
        self._views = {self._current[0]: View({}, {})}
        self._held: dict[tuple[str, int], _Held] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    @property
    def view(self) -> View:
        """The current view."""
        with self._lock:
            return self._views[self._current[0]]

    def handle(self, model: str, version: int | None = None, label: str | None = None) -> Handle:
        """Returns a handle to an available version of `model`: that with the label, `version`, or the highest.

        Raises RequestError: NOT_FOUND when it is not available, INVALID_ARGUMENT for an unknown label.
        """
        current_request.set_model(model)
        with self._lock:
            number = self._views[self._current[0]].find(model, version, label)
            held = self._held[model, number]
            held.handles += 1
        current_request.version = number
        return held

    def load(self, model: str, version: int, path: Path) -> None:
        """Loads a version, which serves once it is available in the current view. Raises what `load` raises."""
        servable = self._load(model, version, path)
        with self._lock:
            self._held[model, version] = _Held(self._changed, self._lock, servable)

    def unload(self, model: str, version: int) -> None:
        """Frees a version that is in no view any more, when its last handle is released. One not loaded is ignored."""
        with self._changed:
            held = self._held.get((model, version))
            if held is None:
                return
            held.leaving = True
            while held.handles:
                self._changed.wait()
            del self._held[model, version]
        held.servable.close()

    def show(self, view: View) -> None:
        """Makes `view` the current view."""
        number = self._current[0] + 1
        self.keep(number, view)
        self._current[0] = number

    def keep(self, number: int, view: View) -> None:
        """Stores `view`, which becomes current when the shared number is `number`."""
        with self._lock:
            current = self._current[0]
            self._views = {kept: seen for kept, seen in self._views.items() if kept >= current} | {number: view}
