"""The model and version of the request that a thread runs, for logs and metrics."""

from __future__ import annotations

import threading

# A thread keeps the name until its next request, and clients can send names of any length.
LONGEST_NAME = 1024


class CurrentRequest(threading.local):
    """The model and the version; None as long as they are not known."""

    model: str | None = None
    version: int | None = None

    def set_model(self, model: str) -> None:
        """Sets the model; a name that is too long is cut."""
        self.model = model if len(model) <= LONGEST_NAME else model[:LONGEST_NAME] + "…"
        self.version = None

    def reset(self) -> None:
        """Begins a new request."""
        self.model = self.version = None


current_request = CurrentRequest()
