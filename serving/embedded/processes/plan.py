"""The configuration of the server: the flags and the contents of their files, read before the server starts."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tfserving.serving.config_messages import read_message
from tfserving.serving.embedded.core.batch_parameters import Parameters, read_parameters
from tfserving.serving.embedded.core.model_config import Model, read_config, single_model
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.grpc.transport import GRPCIO, Transport, choose
from tfserving.serving.embedded.tls import Tls, read_tls

METRICS_PATH = "/monitoring/prometheus/metrics"


@dataclass(frozen=True)
class Plan:
    """The flags, and the contents of their files.

    `batching` has the parameters and the number of threads, None for the default of the device. `metrics_path` is the
    path of the page for Prometheus, `session_config` a serialized ConfigProto, and `transport` the library that carries
    gRPC.
    """

    flags: Flags
    models: tuple[Model, ...]
    batching: tuple[Parameters, int | None] | None = None
    metrics_path: bytes | None = None
    tls: Tls | None = None
    session_config: bytes = b""
    transport: Transport = GRPCIO


def read_plan(flags: Flags) -> Plan:
    """Reads all files. Raises StartError for the first one that can't be read, written or is wrong."""
    _check_request_log(flags)
    return Plan(
        flags,
        _models(flags),
        _batching(flags),
        _metrics_path(flags),
        read_tls(flags.ssl_config_file) if flags.ssl_config_file is not None else None,
        _session_config(flags),
        choose(flags),
    )


def _check_request_log(flags: Flags) -> None:
    """Raises StartError when the folder of the request log can't be written."""
    if flags.request_log is None:
        return
    folder = flags.request_log.absolute().parent
    trouble = "" if os.access(folder, os.W_OK | os.X_OK) else "no permission to write"
    if not folder.is_dir():
        trouble = "not a folder" if folder.exists() else "no such folder"
    if trouble:
        raise StartError(f"--request_log={flags.request_log}: can't write to {folder}: {trouble}")


def _models(flags: Flags) -> tuple[Model, ...]:
    """Returns the models that the flags name. Raises StartError when their configuration is wrong."""
    if flags.model_config_file is not None:
        models = read_config(flags.model_config_file)
    else:
        models = (single_model(flags.model_name, flags.model_base_path or ""),)
    for model in models:
        if model.labels and not flags.allow_version_labels_for_unavailable_models:
            label, version = next(iter(model.labels.items()))
            raise StartError(
                f"--model_config_file={flags.model_config_file}: model {model.name!r}: label {label!r} names version "
                f"{version}, which is not loaded at the start. Set --allow_version_labels_for_unavailable_models"
            )
    return models


def _batching(flags: Flags) -> tuple[Parameters, int | None] | None:
    """Returns the batching parameters, and the number of threads if it is set. Raises StartError for a wrong file."""
    if not flags.enable_batching:
        return None
    if flags.batching_parameters_file is not None:
        return read_parameters(flags.batching_parameters_file)
    return Parameters(), None


def _metrics_path(flags: Flags) -> bytes | None:
    """Returns the path of the page for Prometheus. Raises StartError when the file is wrong."""
    if flags.monitoring_config_file is None:
        return None
    config = read_message("MonitoringConfig", flags.monitoring_config_file, "--monitoring_config_file")
    if not config.prometheus_config.enable:
        return None
    path = config.prometheus_config.path or METRICS_PATH
    if not path.startswith("/"):
        raise StartError(f"--monitoring_config_file={flags.monitoring_config_file}: path {path!r} must begin with /")
    return str(path).encode()


def _session_config(flags: Flags) -> bytes:
    """Returns the serialized ConfigProto for TensorFlow's sessions. Raises StartError when the file is wrong."""
    path = flags.tensorflow_session_config_file
    if path is None:
        return b""
    config: bytes = read_message("tensorflow.ConfigProto", path, "--tensorflow_session_config_file").SerializeToString()
    return config
