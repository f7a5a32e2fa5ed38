"""The settings of a verification."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tfserving.clients.busy import Patient
from tfserving.clients.limits import MAX_RESPONSE_BYTES
from tfserving.clients.verification.verdicts import WAYS, Row, Way
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.devices import Device

DEFAULT_TIMEOUT = 30.0


@dataclass(frozen=True)
class Settings:
    """The settings of a verification.

    `tolerance` replaces those of the golden requests, which are by kind of device. The kind is `device`, else the one
    that the server names, else `fleet_device`, which the settings of its fleet imply, else `cpu`. `timeout`, in
    seconds, and `max_response_bytes` apply to each request. `against` is a server whose outputs are expected instead of
    the golden outputs; they must be equal unless there is a `tolerance`. `served_as` maps models to the names under
    which the server has them, where these differ. `progress` is called with the current step, and `finished` with the
    rows of a model when they are complete.
    """

    ways: Sequence[Way] = WAYS
    tolerance: Tolerance | None = None
    device: Device | None = None
    fleet_device: Device | None = None
    timeout: float = DEFAULT_TIMEOUT
    max_response_bytes: int = MAX_RESPONSE_BYTES
    against: Patient | None = None
    served_as: Mapping[str, str] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda text: None  # noqa: ARG005
    finished: Callable[[list[Row]], None] = lambda rows: None  # noqa: ARG005
