"""TensorFlow Serving's configuration messages that tensorflow-serving-api lacks.

They are declared here as in TensorFlow Serving r2.20, in the same descriptor pool as the others:
servables/tensorflow/session_bundle_config.proto, config/monitoring_config.proto, config/ssl_config.proto.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from tfserving.foundation.given import NotTextError, given_text
from tfserving.foundation.messages import POOL, message
from tfserving.serving.embedded.errors import StartError

PACKAGE = "tensorflow.serving"
# Bytes of a file, and characters of its text in an error.
LARGEST_FILE, LONGEST_SHOWN = 4 * 2**20, 300
_INT64 = "google.protobuf.Int64Value"
_STRING = "google.protobuf.StringValue"
_BOOL = "google.protobuf.BoolValue"
# The fields of each message: name, number, type, and whether it is repeated.
_MESSAGES: dict[str, tuple[tuple[str, int, str, bool], ...]] = {
    "BatchingParameters": (
        ("max_batch_size", 1, _INT64, False),
        ("batch_timeout_micros", 2, _INT64, False),
        ("max_enqueued_batches", 3, _INT64, False),
        ("num_batch_threads", 4, _INT64, False),
        ("thread_pool_name", 5, _STRING, False),
        ("allowed_batch_sizes", 6, "int64", True),
        ("pad_variable_length_inputs", 7, "bool", False),
        ("enable_large_batch_splitting", 8, _BOOL, False),
        ("max_execution_batch_size", 9, _INT64, False),
    ),
    "PrometheusConfig": (("enable", 1, "bool", False), ("path", 2, "string", False)),
    "MonitoringConfig": (("prometheus_config", 1, f"{PACKAGE}.PrometheusConfig", False),),
    "SSLConfig": (
        ("server_key", 1, "string", False),
        ("server_cert", 2, "string", False),
        ("custom_ca", 3, "string", False),
        ("client_verify", 4, "bool", False),
    ),
}
_TYPES = {
    "int64": FieldDescriptorProto.TYPE_INT64,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "string": FieldDescriptorProto.TYPE_STRING,
}


def _declare() -> None:
    others = [POOL.FindFileContainingSymbol(_INT64).name]
    file = FileDescriptorProto(name="server_config.proto", package=PACKAGE, syntax="proto3", dependency=others)
    for name, fields in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
            added = declared.field.add(name=field, number=number, label=label)
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type, added.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{kind}"
    POOL.Add(file)


_declare()
BatchingParameters = message(f"{PACKAGE}.BatchingParameters")
MonitoringConfig = message(f"{PACKAGE}.MonitoringConfig")
SSLConfig = message(f"{PACKAGE}.SSLConfig")


def text(config: Any) -> str:
    """Return a configuration message as a text proto, for the file of a flag."""
    return str(text_format.MessageToString(config, descriptor_pool=POOL))


def read_message(name: str, path: Path, where: str, *, secret: bool = False) -> Any:
    """Return the text proto in the file `path` as the message `name`, such as BatchingParameters.

    Raises StartError, which begins with `where` and the path, when the file can't be read or parsed. A parse error has
    the words of TensorFlow Serving. With `secret` it shows nothing of the file's content.
    """
    kind = name.rpartition(".")[2]
    try:
        return text_format.Parse(
            given_text(path, LARGEST_FILE), message(name if "." in name else f"{PACKAGE}.{name}")()
        )
    except NotTextError as error:
        trouble = str(error.strerror)
    except OSError as error:
        raise StartError(f"{where}={path}: {error.strerror}") from None
    except text_format.ParseError as error:
        trouble = f"line {error.GetLine()}, column {error.GetColumn()}"
        if not secret:
            trouble += ": " + printable(str(error).partition(" : ")[2].rstrip("."))
    except RecursionError:
        trouble = "it is nested too deeply"
    raise StartError(f"{where}={path}: Invalid protobuf file: '{path}'; {trouble}. Expected a text-format {kind}")


def printable(text: str) -> str:
    """Return `text` for an error: shortened, without control characters."""
    shown = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in shown)
