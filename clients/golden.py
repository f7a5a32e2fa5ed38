"""Golden requests, sent: what a server answers to one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfserving.clients.answers import Classification, Prediction, Regression
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array

if TYPE_CHECKING:
    from tfserving.clients.client import Client


def ask(
    client: Client,
    model: str,
    request: GoldenRequest,
    *,
    version: int | None = None,
    defaults: Mapping[str, Array] | None = None,
    timeout: float | None = None,
) -> Mapping[str, Array]:
    """What `client` is answered to `request`, by output; `defaults` are those of its inputs. Raises a ServingError."""
    answer = send(client, model, request, version=version, defaults=defaults, timeout=timeout)
    if isinstance(answer, Classification):
        return {"classes": answer.labels, "scores": answer.scores}
    if isinstance(answer, Regression):
        return {"outputs": answer.values}
    return answer.outputs


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
    """The response to `request`; `defaults` are those of its inputs. Raises a ServingError."""
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
        # TensorFlow Serving's JSON must name every input, also one that has a default (util/json_tensor.cc).
        inputs = {**(defaults or {}), **inputs}
    return client.predict(model, inputs, **options)
