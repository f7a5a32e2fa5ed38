"""The URLs that TensorFlow Serving answers, and this server's own.

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
# What RFC 3986 allows in a path, a query and a fragment; the real server's parser refuses the rest.
_PLAIN = rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9a-fA-F]{2})*"
AUTHORITY = re.compile(rb"^https?://[^/?#]*", re.IGNORECASE)
URI = re.compile(_PLAIN + rb"(?:\?(?:" + _PLAIN[:-1] + rb"|\?)*)?(?:#(?:" + _PLAIN[:-1] + rb"|\?)*)?")
LIVE, LISTING = b"/healthz", b"/v1/models"
PROBE = re.compile(rb"/(?:(?P<live>healthz)|readyz(?:/(?P<model>[^/]+))?)")
# Clients repeat themselves.
_KEPT, _LONGEST_KEPT = 256, 256


class Inference(NamedTuple):
    """What a URL of predict, classify or regress wants of which model; `spec` is None as `model_spec` says."""

    spec: ModelSpec | None
    verb: str


def inference(path: bytes) -> Inference | None:
    """What a URL asks of a model; None when it isn't one of those, in the words of `INFERENCE`."""
    return _known(path) if len(path) <= _LONGEST_KEPT else _read(path)


def _read(path: bytes) -> Inference | None:
    match = INFERENCE.fullmatch(path)
    if match is None or match["verb"] not in (b"predict", b"classify", b"regress") or not URI.fullmatch(path):
        return None
    return Inference(model_spec(match), match["verb"].decode())


_known = lru_cache(_KEPT)(_read)


def model_spec(match: re.Match[bytes]) -> ModelSpec | None:
    """What the URL asks for; None for a version number that 64 bits can't hold."""
    model, label = (unescape(match[name]) for name in ("model", "label"))
    if match["version"] is None:
        return ModelSpec(model or "", label=label)
    number = match["version"].lstrip(b"0") or b"0"
    # Python refuses to read numbers of thousands of digits.
    if len(number) > len(str(LARGEST_VERSION)) or int(number) > LARGEST_VERSION:
        return None
    return ModelSpec(model or "", version=int(number))


def unescape(text: bytes | None) -> str | None:
    """A part of a URL as text; bytes that are no UTF-8 survive as surrogates."""
    return None if text is None else unquote_to_bytes(text).decode("utf-8", "surrogateescape")
