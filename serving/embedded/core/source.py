"""The source: polls base paths and says which versions should be served."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tfserving.serving.embedded.core.model_config import Model

log = logging.getLogger(__name__)

# TensorFlow Serving reads folder names as 64-bit integers: 00000123 is version 123.
VERSION = re.compile(r"-?[0-9]{1,19}", re.ASCII)
LARGEST_VERSION = 2**63 - 1

Aspire = Callable[[str, Mapping[int, Path]], None]


class Source:
    """Tells `aspire`, for each model, which versions its policy wants of those that are on disk.

    A folder whose name is no integer is never a version, so a version that is being written beside the others, under
    a name like `.tmp-7`, is not served before it is renamed.
    """

    def __init__(self, models: Sequence[Model], aspire: Aspire) -> None:
        self._models = models
        self._aspire = aspire
        # Whoever polls has it, so that nothing is aspired for a model that was just removed.
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._unreadable: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    def watch(self, models: Sequence[Model]) -> None:
        """Looks at `models` from now on instead of those before, at once; of the others nothing is aspired any more."""
        with self._lock:
            gone = {model.name for model in self._models} - {model.name for model in models}
            self._models = models
            for name in gone:
                self._aspire(name, {})
        self.poll()

    def poll(self) -> None:
        """Looks at every base path once. One that can't be read leaves its model as it is, and is logged once."""
        with self._lock:
            self._poll()

    def _poll(self) -> None:
        for model in self._models:
            try:
                versions = list_versions(model.base_path)
            except OSError as error:
                if self._unreadable.get(model.name) != str(error):
                    log.warning("model %r: %s; its versions stay as they are", model.name, error)
                    self._unreadable[model.name] = str(error)
                continue
            self._unreadable.pop(model.name, None)
            self._aspire(model.name, {version: versions[version] for version in model.policy.choose(list(versions))})

    def start(self, seconds: float) -> None:
        """Polls every `seconds` from now on, in a thread; 0 and less mean never again, as in TensorFlow Serving."""
        if seconds <= 0:
            return
        self._thread = threading.Thread(target=self._follow, args=(seconds,), name="source", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the polling; nothing is aspired any more when this returns."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            self.poll()


def list_versions(base_path: Path) -> dict[int, Path]:
    """The versions in `base_path` with their folders, lowest first. Raises OSError when it can't be read."""
    found: dict[int, Path] = {}
    for child in sorted(base_path.iterdir()):
        if VERSION.fullmatch(child.name) and abs(int(child.name)) <= LARGEST_VERSION and child.is_dir():
            found.setdefault(int(child.name), child)
    return dict(sorted(found.items()))
