"""What a client takes of a server: the limits that keep a hostile or broken one from filling or holding it up."""

from __future__ import annotations

# The largest response, as received and once inflated. grpcio's own limit is 4 MiB, which images and embeddings
# exceed. A larger one takes `max_response_bytes` of `connect`, or `--max-response-bytes` of a command.
MAX_RESPONSE_BYTES = 256 * 1024 * 1024
# A value that becomes a Python object takes many times its bytes. So an answer in JSON may hold one value for so many
# bytes of the limit, and one in protobuf that isn't read in place is so many times smaller than the limit.
BYTES_PER_VALUE = 16
# What a server says of a model, its status and its metadata, is so many times smaller than the limit.
_DESCRIPTIONS_PART = 64
# Strings and integers are packed as densely on the wire, and their messages are this many times smaller.
_UNPACKED_PART = 4
# No signature has more outputs.
MOST_OUTPUTS = 10_000
# Of an answer that is an error no more is read.
MOST_ERROR_BYTES = 1024 * 1024
# Of an error's text no more is kept, and no more of it is shown.
MOST_TEXT, MOST_SHOWN, MOST_LINES = 64 * 1024, 4096, 50
# Of a metrics page. TensorFlow Serving's has some 100 kB.
MAX_PAGE_BYTES = 16 * 1024 * 1024
# Seconds that stand for "no end": what the system's own timers can hold.
LONGEST_TIMEOUT = 10_000_000.0
RAISE_IT = (
    "raise the limit with max_response_bytes= of connect or --max-response-bytes of a command, if the server is trusted"
)


def unpacked_bytes(largest: int) -> int:
    """The largest answer of predict with strings or integers in it, where `largest` is the limit of an answer."""
    return max(largest // _UNPACKED_PART, 1)


def structured_bytes(largest: int) -> int:
    """The largest message of protobuf that becomes Python objects, where `largest` is the limit of an answer."""
    return max(largest // BYTES_PER_VALUE, 1)


def description_bytes(largest: int) -> int:
    """The largest status or metadata, where `largest` is the limit of an answer."""
    return max(largest // _DESCRIPTIONS_PART, 1)
