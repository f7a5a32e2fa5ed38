"""The release of TensorFlow Serving that this server behaves like: the one built with the installed TensorFlow.

The differences between releases are properties of `Release`. docs/tensorflow_serving.md lists those that clients see.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

# Minor versions. 2.20 is recorded in tests/conformance; the others follow their release notes.
KNOWN = ((2, 20), (2, 21), (2, 22))
_OLDEST, _NEWEST = KNOWN[0], KNOWN[-1]
ALL = "{}.{} to {}.{}".format(*_OLDEST, *_NEWEST)


@dataclass(frozen=True)
class Release:
    """The release of TensorFlow Serving that belongs to a TensorFlow, or the nearest supported one."""

    tensorflow: str

    @property
    def minor(self) -> tuple[int, int]:
        """(2, 21) of TensorFlow Serving 2.21."""
        return min(max(minor(self.tensorflow), _OLDEST), _NEWEST)

    @property
    def most_nested(self) -> int:
        """The number of arrays that a tensor of a REST request can be nested in; 0 is no limit.

        Since 2.22, against stack overflows: https://github.com/tensorflow/serving/releases/tag/2.22.0-rc0
        """
        return 256 if self.minor >= (2, 22) else 0

    def __str__(self) -> str:
        text = "TensorFlow Serving {}.{}".format(*self.minor)
        own = minor(self.tensorflow)
        if own == self.minor:
            return text
        return f"{text}, the {'newest' if own > self.minor else 'oldest'} supported release"


def minor(version: str) -> tuple[int, int]:
    """(2, 22) of `2.22.1`, `2.22.0-rc0` and `2.22.0rc0`."""
    major, second = version.split(".")[:2]
    return int(major), int(re.sub(r"\D.*", "", second))


@lru_cache(maxsize=1)
def installed() -> Release:
    """Returns the release of the installed TensorFlow, without importing it. Raises PackageNotFoundError."""
    from importlib.metadata import PackageNotFoundError, version

    # The image of the embedded server contains the CPU package.
    try:
        return Release(version("tensorflow-cpu"))
    except PackageNotFoundError:
        return Release(version("tensorflow"))
