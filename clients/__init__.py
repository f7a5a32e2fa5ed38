"""Clients of a TensorFlow model server: gRPC and REST, numpy in and out, no TensorFlow needed.

    from clients import connect

    with connect("grpc://127.0.0.1:8500") as client:
        prediction = client.predict("digits", {"image": images})

Names are imported when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clients.answers import Classification, Metadata, Prediction, Regression, Signature, TensorInfo, VersionStatus
    from clients.client import Client, connect
    from clients.errors import ServingError
    from clients.grpc_client import GrpcClient
    from clients.rest_client import RestClient

__all__ = [
    "Classification",
    "Client",
    "GrpcClient",
    "Metadata",
    "Prediction",
    "Regression",
    "RestClient",
    "ServingError",
    "Signature",
    "TensorInfo",
    "VersionStatus",
    "connect",
]
_HOMES = {
    "answers": ("Classification", "Metadata", "Prediction", "Regression", "Signature", "TensorInfo", "VersionStatus"),
    "client": ("Client", "connect"),
    "errors": ("ServingError",),
    "grpc_client": ("GrpcClient",),
    "rest_client": ("RestClient",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"clients.{module}"), name)
    raise AttributeError(f"module 'clients' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
