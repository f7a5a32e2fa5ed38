"""Which release of TensorFlow Serving this server behaves like: the one that is built with the installed TensorFlow.

What differs between releases is a property of `Release`. docs/tensorflow_serving.md has what of it a client sees.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

# By minor version. 2.20 is recorded in tests/conformance, the others are known from their release notes.
KNOWN = ((2, 20), (2, 21), (2, 22))
_OLDEST, _NEWEST = KNOWN[0], KNOWN[-1]
ALL = "{}.{} to {}.{}".format(*_OLDEST, *_NEWEST)


@dataclass(frozen=True)
class Release:
    """The release of TensorFlow Serving that belongs to a TensorFlow, or the nearest one that is known."""

    tensorflow: str

    @property
    def minor(self) -> tuple[int, int]:
        """(2, 21) of TensorFlow Serving 2.21."""
        return min(max(minor(self.tensorflow), _OLDEST), _NEWEST)

    @property
    def most_nested(self) -> int:
        """In how many arrays a tensor of a REST request may be nested; 0 is no limit.

        Since 2.22, against the exhaustion of the stack: https://github.com/tensorflow/serving/releases/tag/2.22.0-rc0
        """
        return 256 if self.minor >= (2, 22) else 0

    def __str__(self) -> str:
        text = "TensorFlow Serving {}.{}".format(*self.minor)
        own = minor(self.tensorflow)
        if own == self.minor:
            return text
        return f"{text}, the {'newest' if own > self.minor else 'oldest'} release that it knows"


def minor(version: str) -> tuple[int, int]:
    """(2, 22) of `2.22.1`, `2.22.0-rc0` and `2.22.0rc0`."""
    major, second = version.split(".")[:2]
    return int(major), int(re.sub(r"\D.*", "", second))


@lru_cache(maxsize=1)
def installed() -> Release:
    """The release of the TensorFlow that is installed; does not import it."""
    from importlib.metadata import version

    return Release(version("tensorflow"))
