"""Sends golden requests to a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfserving.clients.results import Classification, Prediction, Regression
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array

if TYPE_CHECKING:
    from tfserving.clients.client import Client


def golden_outputs(
    client: Client,
    model: str,
    request: GoldenRequest,
    *,
    version: int | None = None,
    defaults: Mapping[str, Array] | None = None,
    timeout: float | None = None,
) -> Mapping[str, Array]:
    """Return the outputs of `request` by name; `defaults` are those of its inputs. Raises a ServingError."""
    result = send(client, model, request, version=version, defaults=defaults, timeout=timeout)
    if isinstance(result, Classification):
        return {"classes": result.labels, "scores": result.scores}
    if isinstance(result, Regression):
        return {"outputs": result.values}
    return result.outputs


def send(
    client: Client,
    model: str,
    request: GoldenRequest,
    *,
    version: int | None = None,
    label: str | None = None,
    defaults: Mapping[str, Array] | None = None,
    timeout: float | None = None,
) -> Prediction | Classification | Regression:
    """Return the result of `request`; `defaults` are those of its inputs. Raises a ServingError."""
    options: dict[str, Any] = {
        "signature": request.signature,
        "version": version,
        "label": label,
        "timeout": timeout,
    }
    if request.method == "classify":
        return client.classify(model, request.inputs["inputs"].tolist(), **options)
    if request.method == "regress":
        return client.regress(model, request.inputs["inputs"].tolist(), **options)
    inputs = dict(request.inputs)
    if client.protocol == "rest":
        # In TensorFlow Serving's JSON every input is required, also one with a default (util/json_tensor.cc).
        inputs = {**(defaults or {}), **inputs}
    return client.predict(model, inputs, **options)
