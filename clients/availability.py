"""Waiting until a version is available."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tfserving.clients.busy import is_busy
from tfserving.clients.call_options import CallOptions
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
from tfserving.clients.results import Metadata, VersionStatus
from tfserving.clients.steps import Pause, Steps

# One request must not use up all the time: the server behind an address can change.
POLL_TIMEOUT = 5.0
LONGEST_PAUSE = 0.5


def wait_until_available(
    options: CallOptions,
    timeout: float,
    status: Callable[[CallOptions], Steps[tuple[VersionStatus, ...]]],
    metadata: Callable[[CallOptions], Steps[Metadata]],
) -> Steps[int]:
    """Return the version that `options` select, as soon as it is available. `status` and `metadata` send requests.

    Raises DeadlineExceeded after `timeout` seconds, and the errors of `available_version`.
    """
    # The error of the label is kept apart: the time may run out after the status and before the label is checked.
    seen, refusal, pause = "no response", "", 0.02
    while True:
        remaining = options.deadline - time.monotonic()
        try:
            if remaining > 0:
                once = options._replace(deadline=time.monotonic() + min(remaining, POLL_TIMEOUT))
                statuses = yield from status(once._replace(call=options.call._replace(version=None, label=None)))
                seen = ", ".join(map(str, statuses)) or "no version"
                available = available_version(statuses, options.call)
                if available is not None:
                    # Only a request with the label shows its version.
                    return available if options.call.label is None else (yield from metadata(once)).version
                refusal = ""
        except DeadlineExceeded:
            # The status before it is more useful.
            pass
        except (Unavailable, NotFound, ResourceExhausted) as error:
            if isinstance(error, ResourceExhausted) and not is_busy(error):
                raise
            seen, refusal = f"{error.code}: {error.text}", ""
        except (InvalidArgument, FailedPrecondition) as error:
            if options.call.label is None:
                raise
            refusal = f"; {error.code}: {error.text}"
        remaining = options.deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded(f"not available after {timeout:g} s; last status: {seen}{refusal}", options.call)
        yield Pause(min(pause, remaining))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def available_version(statuses: Sequence[VersionStatus], call: Call) -> int | None:
    """Return the available version of `statuses`, newest first, that `call` selects; None to keep waiting.

    Raises the error with which the selected version failed to load. Without a selected version, raises that of the
    newest version when no version is available or being loaded.
    """
    candidates = [status for status in statuses if call.version in (None, status.version)]
    for status in candidates:
        if status.state == "AVAILABLE":
            return status.version
    if candidates and candidates[0].failed and all(status.state == "END" for status in candidates):
        failed = candidates[0]
        raise from_code(failed.code, failed.message, call, f"version {failed.version} of {call.model} failed to load")
    return None
