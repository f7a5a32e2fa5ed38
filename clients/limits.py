"""Limits on what a client accepts, so that a hostile or broken server can't exhaust its memory or block it."""

from __future__ import annotations

# The largest response, as received and inflated. grpcio's default of 4 MiB is too low for images and embeddings.
# `max_response_bytes` of `connect` and `--max-response-bytes` of a command change it.
MAX_RESPONSE_BYTES = 256 * 1024 * 1024
# A value that becomes a Python object needs many times its bytes. So a JSON response may hold one value for each 16
# bytes of the limit, and the limit of a protobuf response that isn't read in place is this many times lower.
BYTES_PER_VALUE = 16
# The limit of a model's status and metadata is this many times lower.
_DESCRIPTIONS_PART = 64
# Strings and integers are packed as densely on the wire. The limit of their messages is this many times lower.
_UNPACKED_PART = 4
# No signature has more outputs.
MOST_OUTPUTS = 10_000
# The part of an error response that is read.
MOST_ERROR_BYTES = 1024 * 1024
# Characters of an error's text that are kept and shown, and lines of a hint.
MOST_TEXT, MOST_SHOWN, MOST_LINES = 64 * 1024, 4096, 50
# The largest metrics page. TensorFlow Serving's has some 100 kB.
MAX_PAGE_BYTES = 16 * 1024 * 1024
# The longest timeout in seconds, also for infinity: what the system's timers can hold.
LONGEST_TIMEOUT = 10_000_000.0
RAISE_IT = (
    "raise the limit with max_response_bytes= of connect or --max-response-bytes of a command, if you trust the server"
)


def unpacked_bytes(largest: int) -> int:
    """Return the limit of a predict response with strings or integers, from the limit of a response."""
    return max(largest // _UNPACKED_PART, 1)


def structured_bytes(largest: int) -> int:
    """Return the limit of a protobuf message that becomes Python objects, from the limit of a response."""
    return max(largest // BYTES_PER_VALUE, 1)


def description_bytes(largest: int) -> int:
    """Return the limit of a status or metadata, from the limit of a response."""
    return max(largest // _DESCRIPTIONS_PART, 1)
