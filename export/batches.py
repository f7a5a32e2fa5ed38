"""Whether the inputs of a signature have a batch in common, as far as the signature itself says."""

from __future__ import annotations

from collections.abc import Mapping

from tfserving.export.manifest import ServedSignature


def without_batch(signatures: Mapping[str, ServedSignature]) -> set[str]:
    """Those of a SavedModel's `signatures` whose inputs have no first dimension in common, as with a single value."""
    return {name for name, signature in signatures.items() if not _has_batch(signature)}


def _has_batch(signature: ServedSignature) -> bool:
    # One of any rank may have it.
    first = {spec.shape[:1] for spec in signature.inputs.values() if spec.shape is not None}
    return first <= {(None,)} or (len(first) == 1 and () not in first)
