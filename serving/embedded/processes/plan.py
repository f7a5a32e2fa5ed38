"""What the flags and the files that they name come to, read whole before anything starts."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tfserving.serving.config_messages import read_message
from tfserving.serving.embedded.core.batching import Parameters, read_parameters
from tfserving.serving.embedded.core.model_config import Model, read_config, single_model
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.grpc.transport import GRPCIO, Transport, choose
from tfserving.serving.embedded.tls import Tls, read_tls

METRICS_PATH = "/monitoring/prometheus/metrics"


@dataclass(frozen=True)
class Plan:
    """The flags, and what is in their files.

    `batching` is how requests are batched and by how many threads, `metrics_path` where Prometheus asks,
    `session_config` a serialized ConfigProto, `transport` what carries gRPC.
    """

    flags: Flags
    models: tuple[Model, ...]
    batching: tuple[Parameters, int] | None = None
    metrics_path: bytes | None = None
    tls: Tls | None = None
    session_config: bytes = b""
    transport: Transport = GRPCIO


def read_plan(flags: Flags) -> Plan:
    """Raises StartError for the first file that can't be read or says nonsense."""
    return Plan(
        flags,
        _models(flags),
        _batching(flags),
        _metrics_path(flags),
        read_tls(flags.ssl_config_file) if flags.ssl_config_file is not None else None,
        _session_config(flags),
        choose(flags),
    )


def _models(flags: Flags) -> tuple[Model, ...]:
    """The models that the flags name. Raises StartError when their configuration is wrong."""
    if flags.model_config_file is not None:
        models = read_config(flags.model_config_file)
    else:
        models = (single_model(flags.model_name, flags.model_base_path or ""),)
    for model in models:
        if model.labels and not flags.allow_version_labels_for_unavailable_models:
            label, version = next(iter(model.labels.items()))
            raise StartError(
                f"model {model.name!r}: label {label!r} is for version {version}, which is not loaded at the start; "
                "--allow_version_labels_for_unavailable_models accepts that"
            )
    return models


def _batching(flags: Flags) -> tuple[Parameters, int] | None:
    """How requests are batched, and by how many threads. Raises StartError when the file says nonsense."""
    if not flags.enable_batching:
        return None
    parameters, threads = Parameters(), None
    if flags.batching_parameters_file is not None:
        parameters, threads = read_parameters(flags.batching_parameters_file)
    return parameters, threads or os.cpu_count() or 1


def _metrics_path(flags: Flags) -> bytes | None:
    """Where REST has the page for Prometheus. Raises StartError when the file says nonsense."""
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
    """The ConfigProto for TensorFlow's sessions. Raises StartError when the file is something else."""
    path = flags.tensorflow_session_config_file
    if path is None:
        return b""
    config: bytes = read_message("tensorflow.ConfigProto", path, "--tensorflow_session_config_file").SerializeToString()
    return config
