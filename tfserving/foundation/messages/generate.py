"""Writes `descriptors.binpb`: every message of TensorFlow Serving's API, taken from tensorflow-serving-api.

Needs the development environment (tensorflow-serving-api imports TensorFlow): `make generated`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOTS = (
    "tensorflow.core.protobuf.saved_model_pb2",
    "tensorflow.core.protobuf.tensor_bundle_pb2",
    "tensorflow_serving.apis.model_service_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tensorflow_serving.apis.prediction_service_pb2",
    "tensorflow_serving.config.model_server_config_pb2",
)
DESTINATION = Path(__file__).with_name("descriptors.binpb")


def _add(file: FileDescriptor, into: dict[str, FileDescriptor]) -> None:
    """Add `file` after everything it imports, the order that a pool requires."""
    for dependency in file.dependencies:
        _add(dependency, into)
    into.setdefault(file.name, file)


def descriptors() -> bytes:
    """The serialized FileDescriptorSet of `ROOTS` and all that they import, dependencies first."""
    files: dict[str, FileDescriptor] = {}
    for root in ROOTS:
        _add(importlib.import_module(root).DESCRIPTOR, files)
    result = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(result.file.add())
    return result.SerializeToString(deterministic=True)


if __name__ == "__main__":
    DESTINATION.write_bytes(descriptors())
    print(f"{DESTINATION}: {DESTINATION.stat().st_size} bytes")
