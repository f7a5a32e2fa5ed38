"""Hints: why a server may have rejected a call, from the metadata of its models."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from tfserving.clients.call_options import CallOptions
from tfserving.clients.errors import Call, FailedPrecondition, NotFound, ServingError
from tfserving.clients.inputs import Inputs, mismatches, to_arrays
from tfserving.clients.results import VersionStatus
from tfserving.clients.signatures import Signatures
from tfserving.clients.steps import Steps

# Texts that need no hint: those of the embedded server, and those of this client.
_EXPLAINED = re.compile(r"(^|; )(inputs\[|inputs sent|model '|no model)")


def hint(
    error: ServingError,
    options: CallOptions,
    inputs: Inputs,
    signatures: Signatures,
    status: Callable[[CallOptions], Steps[tuple[VersionStatus, ...]]],
) -> Steps[str]:
    """Return why a server rejected a call, as far as its metadata shows it.

    "" when the error explains itself, or when metadata doesn't show the reason.
    """
    call = options.call
    if time.monotonic() >= options.deadline or _EXPLAINED.search(error.text):
        return ""
    try:
        if isinstance(error, NotFound):
            every_version = options._replace(call=Call(call.protocol, call.server, call.model))
            known = ", ".join(map(str, (yield from status(every_version))))
            return f"the server has these versions of {call.model}: {known}"
        signature, _ = yield from signatures.find(options, fresh=True)
        return "\n".join(mismatches(to_arrays(inputs, options.signature, signature), options.signature, signature))
    except FailedPrecondition as missing:
        return missing.hint
    except NotFound:
        return f"{call.server} doesn't serve a model {call.model!r}" if isinstance(error, NotFound) else ""
    except (ServingError, ValueError):
        return ""
