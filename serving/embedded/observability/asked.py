"""What the request that a thread is answering asks for, for those who keep count."""

from __future__ import annotations

import threading


class Asked(threading.local):
    """The model and the version; None as long as it isn't known."""

    model: str | None = None
    version: int | None = None

    def forget(self) -> None:
        """A new request begins."""
        self.model = self.version = None


asked = Asked()
