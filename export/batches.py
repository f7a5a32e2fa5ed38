"""Whether the inputs of a signature share a batch dimension, as far as their shapes show it."""

from __future__ import annotations

from collections.abc import Mapping

from tfserving.export.manifest import ServedSignature


def without_batch(signatures: Mapping[str, ServedSignature]) -> set[str]:
    """Return the names of the `signatures` whose inputs share no first dimension, for example scalars."""
    return {name for name, signature in signatures.items() if not _has_batch(signature)}


def _has_batch(signature: ServedSignature) -> bool:
    # An input of unknown rank may have it.
    first = {spec.shape[:1] for spec in signature.inputs.values() if spec.shape is not None}
    return first <= {(None,)} or (len(first) == 1 and () not in first)
