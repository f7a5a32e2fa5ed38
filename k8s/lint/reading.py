"""Manifests from files, for `k8s lint`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tfserving.k8s.kubectl import Object

LARGEST_BYTES = 16 << 20
# A few lines of YAML can refer to the same value any number of times, or a value to itself.
_MOST_VALUES, _DEEPEST = 1_000_000, 100


class ManifestError(Exception):
    """A file has no manifests."""


def read(text: str, where: str) -> list[Object]:
    """Return the objects of a file's YAML or JSON; `where` is its name. Raises ManifestError."""
    try:
        documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"{where} is no valid YAML: {' '.join(str(error).split())}") from None
    if not _is_bounded(documents):
        raise ManifestError(f"{where} has more than {_MOST_VALUES} values, or more than {_DEEPEST} levels")
    found = [one for document in documents if document is not None for one in _flat(document)]
    for one in found:
        metadata = one.get("metadata") if isinstance(one, dict) else None
        if not (isinstance(metadata, dict) and all(isinstance(one.get(key), str) for key in ("apiVersion", "kind"))):
            raise ManifestError(f"{where} contains something that is no Kubernetes object with a kind and metadata")
    if not found:
        raise ManifestError(f"{where} contains no Kubernetes object")
    return found


def _flat(document: Any) -> Iterator[Any]:
    """Yield the objects of a document, which may be a list of them."""
    if isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list):
        yield from document["items"]
    else:
        yield document


def _is_bounded(content: Any) -> bool:
    """Return whether the values within `content` can be visited one by one."""
    left, count = [(content, 0)], 0
    while left:
        one, depth = left.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            return False
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        left += [(value, depth + 1) for value in inner]
    return True
