"""What the request that a thread is answering asks for, for those who keep count."""

from __future__ import annotations

import threading

# A thread keeps the name until its next request. Clients can send names of any length.
LONGEST_NAME = 1024


class CurrentRequest(threading.local):
    """The model and the version; None as long as it isn't known."""

    model: str | None = None
    version: int | None = None

    def set_model(self, model: str) -> None:
        """The request is for `model`; a name that is too long is cut."""
        self.model = model if len(model) <= LONGEST_NAME else model[:LONGEST_NAME] + "…"
        self.version = None

    def reset(self) -> None:
        """A new request begins."""
        self.model = self.version = None


current_request = CurrentRequest()
