"""The URLs of TensorFlow Serving, and this server's own.

https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from tfserving.serving.embedded.core.inference import ModelSpec

LARGEST_VERSION = 2**63 - 1

OURS = re.compile(rb"/v1/.*", re.IGNORECASE | re.DOTALL)
_VERSION = rb"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
INFERENCE = re.compile(
    rb"/v1/models/(?P<model>[^/:]+)" + _VERSION + rb":(?P<verb>predict|classify|regress)", re.IGNORECASE
)
STATUS = re.compile(rb"/v1/models(?:/(?P<model>[^/:]+))?" + _VERSION + rb"(?:/(?P<metadata>metadata))?", re.IGNORECASE)
# The characters that RFC 3986 allows in a path, a query and a fragment. TensorFlow Serving refuses others.
_PLAIN = rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9a-fA-F]{2})*"
AUTHORITY = re.compile(rb"^https?://[^/?#]*", re.IGNORECASE)
URI = re.compile(_PLAIN + rb"(?:\?(?:" + _PLAIN[:-1] + rb"|\?)*)?(?:#(?:" + _PLAIN[:-1] + rb"|\?)*)?")
LIVE, LISTING = b"/healthz", b"/v1/models"
PROBE = re.compile(rb"/(?:(?P<live>healthz)|readyz(?:/(?P<model>[^/]+))?)")
# The cache of parsed URLs: clients repeat them.
_KEPT, _LONGEST_KEPT = 256, 256


class Inference(NamedTuple):
    """The model and method of a URL of predict, classify or regress; `spec` is None as for `model_spec`."""

    spec: ModelSpec | None
    verb: str


def inference(path: bytes) -> Inference | None:
    """Returns the model and method of a URL; None when it isn't an inference URL."""
    return _known(path) if len(path) <= _LONGEST_KEPT else _read(path)


def _read(path: bytes) -> Inference | None:
    match = INFERENCE.fullmatch(path)
    if match is None or match["verb"] not in (b"predict", b"classify", b"regress") or not URI.fullmatch(path):
        return None
    return Inference(model_spec(match), match["verb"].decode())


_known = lru_cache(_KEPT)(_read)


def model_spec(match: re.Match[bytes]) -> ModelSpec | None:
    """Returns the model and version of a URL; None for a version number beyond 64 bits."""
    model, label = (unescape(match[name]) for name in ("model", "label"))
    if match["version"] is None:
        return ModelSpec(model or "", label=label)
    number = match["version"].lstrip(b"0") or b"0"
    # Python refuses to parse numbers of thousands of digits.
    if len(number) > len(str(LARGEST_VERSION)) or int(number) > LARGEST_VERSION:
        return None
    return ModelSpec(model or "", version=int(number))


def unescape(text: bytes | None) -> str | None:
    """Returns a part of a URL as text. Bytes that are not UTF-8 become surrogates."""
    return None if text is None else unquote_to_bytes(text).decode("utf-8", "surrogateescape")
