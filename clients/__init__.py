"""Clients of a TensorFlow model server over gRPC and REST, with numpy arrays and without TensorFlow.

    from tfserving.clients import connect

    with connect("grpc://127.0.0.1:8500") as client:
        response = client.predict("digits", {"image": images})

`connect_async` returns the same client for asyncio.

Names are imported when they are first used, so importing the package is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfserving.clients.address import Tls
    from tfserving.clients.async_client import AsyncClient, connect_async
    from tfserving.clients.client import Client, connect
    from tfserving.clients.errors import (
        Aborted,
        AlreadyExists,
        Cancelled,
        DataLoss,
        DeadlineExceeded,
        FailedPrecondition,
        Internal,
        InvalidArgument,
        NotFound,
        OutOfRange,
        PermissionDenied,
        ResourceExhausted,
        ServingError,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        Unknown,
    )
    from tfserving.clients.results import (
        Classification,
        Metadata,
        Prediction,
        Regression,
        Signature,
        TensorInfo,
        VersionStatus,
    )
    from tfserving.clients.steps import Retries

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "Cancelled",
    "Classification",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "Metadata",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "Prediction",
    "Regression",
    "ResourceExhausted",
    "Retries",
    "ServingError",
    "Signature",
    "TensorInfo",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "VersionStatus",
    "connect",
    "connect_async",
]
_HOMES = {
    "address": ("Tls",),
    "results": ("Classification", "Metadata", "Prediction", "Regression", "Signature", "TensorInfo", "VersionStatus"),
    "async_client": ("AsyncClient", "connect_async"),
    "client": ("Client", "connect"),
    "errors": (
        "Aborted",
        "AlreadyExists",
        "Cancelled",
        "DataLoss",
        "DeadlineExceeded",
        "FailedPrecondition",
        "Internal",
        "InvalidArgument",
        "NotFound",
        "OutOfRange",
        "PermissionDenied",
        "ResourceExhausted",
        "ServingError",
        "Unauthenticated",
        "Unavailable",
        "Unimplemented",
        "Unknown",
    ),
    "steps": ("Retries",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module 'clients' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
