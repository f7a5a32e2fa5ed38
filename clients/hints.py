"""Why a server may have refused a call, from what it says about its models."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from tfserving.clients.answers import VersionStatus
from tfserving.clients.asked import Asked
from tfserving.clients.errors import Call, FailedPrecondition, NotFound, ServingError
from tfserving.clients.inputs import Inputs, mismatches, to_arrays
from tfserving.clients.signatures import Signatures
from tfserving.clients.steps import Steps

# Servers that explain themselves do it so: the embedded one, and this client where it refuses by itself.
_EXPLAINED = re.compile(r"(^|; )(inputs\[|inputs sent|model '|no model)")


def hint(
    error: ServingError,
    asked: Asked,
    inputs: Inputs,
    signatures: Signatures,
    status: Callable[[Asked], Steps[tuple[VersionStatus, ...]]],
) -> Steps[str]:
    """What the server's metadata says about why it refused a call.

    Nothing when the error says it itself, or when the reason is not one that metadata shows.
    """
    call = asked.call
    if time.monotonic() >= asked.deadline or _EXPLAINED.search(error.text):
        return ""
    try:
        if isinstance(error, NotFound):
            every_version = asked._replace(call=Call(call.protocol, call.server, call.model))
            known = ", ".join(map(str, (yield from status(every_version))))
            return f"the server's versions of {call.model}: {known}"
        signature, _ = yield from signatures.find(asked, fresh=True)
        return "\n".join(mismatches(to_arrays(inputs, asked.signature, signature), asked.signature, signature))
    except FailedPrecondition as missing:
        return missing.hint
    except NotFound:
        return f"{call.server} serves no model called {call.model!r}" if isinstance(error, NotFound) else ""
    except (ServingError, ValueError):
        return ""
