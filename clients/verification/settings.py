"""How a verification asks and judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tfserving.clients.busy import Patient
from tfserving.clients.limits import MAX_RESPONSE_BYTES
from tfserving.clients.verification.verdicts import WAYS, Way
from tfserving.foundation.compare import Tolerance

DEFAULT_TIMEOUT = 30.0


@dataclass(frozen=True)
class Settings:
    """How a verification asks and judges.

    `tolerance` replaces those of the golden requests, `timeout` is for each request, in seconds, and
    `max_response_bytes` for each answer. `against` is a server whose answers are wanted instead of the golden ones.
    `served_as` has the names under which servers have models, where these aren't the models' own. `progress` is told
    what is being asked.
    """

    ways: Sequence[Way] = WAYS
    tolerance: Tolerance | None = None
    timeout: float = DEFAULT_TIMEOUT
    max_response_bytes: int = MAX_RESPONSE_BYTES
    against: Patient | None = None
    served_as: Mapping[str, str] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda said: None  # noqa: ARG005 - says nothing unless asked to
