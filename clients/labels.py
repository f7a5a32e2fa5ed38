"""The labels of a model on a server. TensorFlow Serving doesn't list them, so each is looked up by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfserving.foundation.labels import CANARY, STABLE, canary_name

if TYPE_CHECKING:
    from tfserving.clients.client import Client


def versions_by_label(client: Client, model: str, labels: Sequence[str] = (STABLE, CANARY)) -> dict[str, int]:
    """Return the version of each of `labels` that the server has; a label without an available version is left out.

    A canary beside a version `stable` is a model of its own, `MODEL-canary`; its version is returned for `canary`.

    Raises NotFound when the server has no such model, and any other ServingError.
    """
    from tfserving.clients.errors import FailedPrecondition, InvalidArgument, NotFound

    client.status(model)
    found: dict[str, int] = {}
    for label in labels:
        for name in (model, canary_name(model)) if label == CANARY else (model,):
            try:
                found[label] = client.metadata(name, label=label).version
            except (FailedPrecondition, InvalidArgument, NotFound):
                continue
            break
    return found
