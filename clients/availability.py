"""Waiting until a version is available."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tfserving.clients.answers import Metadata, VersionStatus
from tfserving.clients.asked import Asked
from tfserving.clients.busy import is_busy
from tfserving.clients.errors import (
    Call,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    from_code,
)
from tfserving.clients.steps import Pause, Steps

# One question may not use up all the time: the server behind an address can change.
POLL_TIMEOUT = 5.0
LONGEST_PAUSE = 0.5


def wait_until_available(
    asked: Asked,
    timeout: float,
    status: Callable[[Asked], Steps[tuple[VersionStatus, ...]]],
    metadata: Callable[[Asked], Steps[Metadata]],
) -> Steps[int]:
    """The version that `asked` means, as soon as it is available; `status` and `metadata` ask the server.

    Raises DeadlineExceeded after `timeout` seconds, and what `available_version` raises.
    """
    # The label's refusal is kept apart: a last question may end with the time after the versions were told again.
    seen, refusal, pause = "nothing was heard from it", "", 0.02
    while True:
        remaining = asked.deadline - time.monotonic()
        try:
            if remaining > 0:
                once = asked._replace(deadline=time.monotonic() + min(remaining, POLL_TIMEOUT))
                statuses = yield from status(once._replace(call=asked.call._replace(version=None, label=None)))
                seen = ", ".join(map(str, statuses)) or "it has no version"
                available = available_version(statuses, asked.call)
                if available is not None:
                    # What a label means, only a request that uses it tells.
                    return available if asked.call.label is None else (yield from metadata(once)).version
                refusal = ""
        except DeadlineExceeded:
            # Says less than what was seen before.
            pass
        except (Unavailable, NotFound, ResourceExhausted) as error:
            if isinstance(error, ResourceExhausted) and not is_busy(error):
                raise
            seen, refusal = f"{error.code}: {error.text}", ""
        except (InvalidArgument, FailedPrecondition) as error:
            if asked.call.label is None:
                raise
            refusal = f"; {error.code}: {error.text}"
        remaining = asked.deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded(f"not available after {timeout:g} s; last seen of it: {seen}{refusal}", asked.call)
        yield Pause(min(pause, remaining))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def available_version(statuses: Sequence[VersionStatus], call: Call) -> int | None:
    """The version of `statuses`, newest first, that a wait for `call` ends with; None to wait on.

    Raises the error with which the version asked for failed to load; without one, that of the newest version when none
    is available or about to be.
    """
    candidates = [status for status in statuses if call.version in (None, status.version)]
    for status in candidates:
        if status.state == "AVAILABLE":
            return status.version
    if candidates and candidates[0].failed and all(status.state == "END" for status in candidates):
        failed = candidates[0]
        raise from_code(failed.code, failed.message, call, f"version {failed.version} of {call.model} failed to load")
    return None
