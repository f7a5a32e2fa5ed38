"""A problem of a fleet's configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """An error or a `warning`, and its key in models.yaml. A server starts with warnings, not with errors."""

    where: str
    text: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{'Warning: ' if self.warning else ''}{self.where}: {self.text}"
