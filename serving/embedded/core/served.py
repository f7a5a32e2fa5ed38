"""What one process has loaded, and the handles by which requests use it."""

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
    """A loaded version. It is its own handle: every request takes one, and nothing has to be made for it."""

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
    """The number of the view that counts, under the index 0; a list, or memory that processes share."""

    def __getitem__(self, index: int, /) -> int:
        """The number."""

    def __setitem__(self, index: int, number: int, /) -> None:
        """Changes it."""


class Served:
    """The versions of this process that `load` made servables of, seen as the view says that counts now.

    `current` holds that view's number. Processes that share it change from one view to the next in the same moment.
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
        """What counts now."""
        with self._lock:
            return self._views[self._current[0]]

    def handle(self, model: str, version: int | None = None, label: str | None = None) -> Handle:
        """A handle to an available version of `model`: the one called `label`, number `version`, or the highest.

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
        """Loads a version, which serves once a view says that it is available. Raises what `load` raises."""
        servable = self._load(model, version, path)
        with self._lock:
            self._held[model, version] = _Held(self._changed, self._lock, servable)

    def unload(self, model: str, version: int) -> None:
        """Frees a version that no view has any more, when its last handle is given back; none that isn't loaded."""
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
        """Makes `view` count."""
        number = self._current[0] + 1
        self.keep(number, view)
        self._current[0] = number

    def keep(self, number: int, view: View) -> None:
        """Keeps `view`, which counts from when the current number is `number`."""
        with self._lock:
            current = self._current[0]
            self._views = {kept: seen for kept, seen in self._views.items() if kept >= current} | {number: view}
