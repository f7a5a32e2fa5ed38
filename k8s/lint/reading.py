"""Manifests from files, for `k8s lint`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tfserving.k8s.kubectl import Object

LARGEST_BYTES = 16 << 20


class ManifestError(Exception):
    """A file has no manifests."""


def read(text: str, where: str) -> list[Object]:
    """Return the objects of a file's YAML or JSON; `where` is its name. Raises ManifestError."""
    try:
        documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"{where} is no valid YAML: {' '.join(str(error).split())}") from None
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
