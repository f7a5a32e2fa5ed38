"""The small text protos that flags name: batching parameters, monitoring, TLS.

tensorflow-serving-api doesn't have them, so they are declared here, as TensorFlow Serving r2.20 declares them:
servables/tensorflow/session_bundle_config.proto, config/monitoring_config.proto, config/ssl_config.proto.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from serving.embedded.errors import StartError

_INT64 = ".google.protobuf.Int64Value"
_STRING = ".google.protobuf.StringValue"
_BOOL = ".google.protobuf.BoolValue"
# By message its fields, numbered from 1: name, type, and whether it is repeated.
_MESSAGES: dict[str, tuple[tuple[str, str, bool], ...]] = {
    "BatchingParameters": (
        ("max_batch_size", _INT64, False),
        ("batch_timeout_micros", _INT64, False),
        ("max_enqueued_batches", _INT64, False),
        ("num_batch_threads", _INT64, False),
        ("thread_pool_name", _STRING, False),
        ("allowed_batch_sizes", "int64", True),
        ("pad_variable_length_inputs", "bool", False),
        ("enable_large_batch_splitting", _BOOL, False),
        ("max_execution_batch_size", _INT64, False),
    ),
    "PrometheusConfig": (("enable", "bool", False), ("path", "string", False)),
    "MonitoringConfig": (("prometheus_config", ".serving.PrometheusConfig", False),),
    "SSLConfig": (
        ("server_key", "string", False),
        ("server_cert", "string", False),
        ("custom_ca", "string", False),
        ("client_verify", "bool", False),
    ),
}
_TYPES = {
    "int64": FieldDescriptorProto.TYPE_INT64,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "string": FieldDescriptorProto.TYPE_STRING,
}


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    wrappers = FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    file = FileDescriptorProto(name="config.proto", package="serving", syntax="proto3", dependency=[wrappers.name])
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type, added.type_name = FieldDescriptorProto.TYPE_MESSAGE, kind
    pool.Add(file)
    return pool


_POOL = _pool()


def read_message(name: str, path: Path, where: str) -> Any:
    """The text proto in the file `path` as the message `name`, BatchingParameters say.

    Raises StartError, which begins with `where` and the path, when it can't be read or is something else.
    """
    message = GetMessageClass(_POOL.FindMessageTypeByName(f"serving.{name}"))()
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), message)
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{where}={path}: {getattr(error, 'strerror', None) or error}") from None
    except text_format.ParseError as error:
        raise StartError(f"{where}={path}: line {error}; it needs a text {name}") from None
