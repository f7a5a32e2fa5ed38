"""What TensorFlow Serving's methods return behind a proxy or a gateway: it passes some on, and refuses others."""

from __future__ import annotations

import grpc

from tfserving.foundation.messages import message


def code_of(channel: grpc.Channel, method: str, request: str) -> grpc.StatusCode:
    """The status of a call of `method` (`Service/Method`) with an empty `request`, of `scaled` if it names a model."""
    sent = message(f"tensorflow.serving.{request}")()
    if request != "ReloadConfigRequest":
        sent.model_spec.name = "scaled"
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/tensorflow.serving.{method}")
    try:
        call(sent.SerializeToString(), timeout=10)
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK
