"""The model server's configuration, generated from models.yaml with TensorFlow Serving's own messages.

models.yaml ──► server_config ──► models.config, batching_parameters.txt, monitoring.config, ssl.config,
health.sh, serve.sh: files in one folder
└──► flags of tensorflow_model_server, or of the embedded server, that name these files
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tfserving.foundation.messages import ModelServerConfig
from tfserving.foundation.model_server import PROGRAM
from tfserving.serving.config_messages import (
    BatchingParameters,
    MonitoringConfig,
    SSLConfig,
    text,
)
from tfserving.serving.docker.image_names import is_embedded
from tfserving.serving.gpu_batching import batching_on_a_gpu
from tfserving.serving.health import HEALTH, health_script, health_script_over_rest
from tfserving.serving.models_yaml.flag_names import EMBEDDED
from tfserving.serving.models_yaml.fleet import Fleet, FleetError
from tfserving.serving.models_yaml.server import Batching, ServerSettings, TlsFiles
from tfserving.serving.served import all_served

MODELS_CONFIG = "models.config"
# The script that starts TensorFlow Serving and waits for requests in flight before the server ends.
SERVE = "serve.sh"
METRICS_PATH = "/monitoring/prometheus/metrics"
# How often a server checks for new versions, and the embedded server for a new models.config.
POLL_SECONDS = 1
# TensorFlow Serving logs some lines each time it reads models.config. So it polls the file only if the reload call
# can't be sent: with TLS, because the toolkit has no client certificate.
POLL_SECONDS_WITH_TLS = 10
# Seconds between the end of a drain and SIGKILL.
_SECONDS_TO_END = 10
# CPU time of a server without requests, which polls its folders, in hundredths of a second for each second.
_BACKGROUND = 2


@dataclass(frozen=True)
class Places:
    """The ports and paths of a server: `config` is the folder with its configuration, `models` the one with all models.

    `model` returns the folder of a model.
    """

    grpc_port: int
    rest_port: int
    config: str
    models: str
    model: Callable[[str], str]


@dataclass(frozen=True)
class ServerConfig:
    """Files, as text by name, and flags.

    `poll_seconds` is the interval at which the server reads models.config; 0 if a call changes what it serves.
    """

    files: Mapping[str, str]
    flags: tuple[str, ...]
    poll_seconds: int


def in_container(grpc_port: int = 8500, rest_port: int = 8501) -> Places:
    """Return the places in a container: the image's own ports, `/config`, `/models/NAME`."""
    return Places(grpc_port, rest_port, "/config", "/models", lambda name: f"/models/{name}")


def on_host(fleet: Fleet, grpc_port: int, rest_port: int, config: Path) -> Places:
    """Return the places of a process on this machine."""
    models = str(fleet.folder.absolute())
    return Places(grpc_port, rest_port, str(config), models, lambda name: str(fleet.model_folder(name)))


def server_config(
    fleet: Fleet, names: tuple[str, ...], places: Places, *, embedded: bool, gpu: bool | None = None
) -> ServerConfig:
    """Return the files and flags of a server for the models `names`: the embedded one, or TensorFlow Serving.

    With `gpu` it has a GPU, so batching has other defaults; None: by `server.gpus`. The server also needs the variables
    of `gpu_environment`. Raises FleetError when a file of `server.tls` can't be read.
    """
    server = fleet.server
    batching = server.batching
    if batching and (bool(server.gpus) if gpu is None else gpu):
        batching = batching_on_a_gpu(batching, embedded=embedded)
    files = {MODELS_CONFIG: text(models_config(fleet, names, places)), HEALTH: health_check(fleet, names, places)}
    if not embedded:
        files[SERVE] = serve_script(server, places)
    poll_seconds = POLL_SECONDS if embedded else POLL_SECONDS_WITH_TLS if server.tls else 0
    flags = {
        "port": places.grpc_port,
        "rest_api_port": places.rest_port,
        "model_config_file": _place(places, MODELS_CONFIG),
        "model_config_file_poll_wait_seconds": poll_seconds,
        "file_system_poll_wait_seconds": POLL_SECONDS,
        # Otherwise a server that is still loading a version with a label doesn't start.
        "allow_version_labels_for_unavailable_models": True,
        # Report a model that can't be loaded at once, not after five minutes.
        "max_num_load_retries": 0,
        # Probes that don't wait for predictions and aren't counted on the metrics page.
        "enable_grpc_healthcheck_service": True,
        **(_embedded_flags(server, places) if embedded else _tensorflow_serving_flags(server)),
    }
    for name, flag, config in (
        ("batching_parameters.txt", "batching_parameters_file", batching and batching_config(batching)),
        ("monitoring.config", "monitoring_config_file", monitoring_config() if server.monitoring else None),
        ("ssl.config", "ssl_config_file", server.tls and ssl_config(server.tls)),
    ):
        if config is not None:
            files[name] = text(config)
            flags[flag] = _place(places, name)
    if batching:
        flags["enable_batching"] = True
    if server.gpu_memory_fraction:
        flags["per_process_gpu_memory_fraction"] = server.gpu_memory_fraction
    # models.yaml may contain flags of the embedded server only, and either server may run.
    flags.update({name: value for name, value in server.flags.items() if embedded or name not in EMBEDDED})
    return ServerConfig(files, tuple(f"--{name}={_flag(value)}" for name, value in flags.items()), poll_seconds)


def container_config(fleet: Fleet, names: tuple[str, ...]) -> ServerConfig:
    """Return the files and flags of a server in a container of `server.image`. See `server_config`."""
    return server_config(fleet, names, in_container(), embedded=is_embedded(fleet.server.image_name))


def health_check(fleet: Fleet, names: tuple[str, ...], places: Places) -> str:
    """Return the script of the health check. It has no TLS, so with `server.tls` it uses REST."""
    if fleet.server.tls:
        return health_script_over_rest(fleet, names, places.rest_port)
    return health_script(fleet, names, places.grpc_port)


def entry_point(places: Places, *, embedded: bool) -> tuple[str, ...]:
    """Return the program of a server, without flags. TensorFlow Serving doesn't drain, so a script starts it."""
    return (PROGRAM,) if embedded else ("bash", _place(places, SERVE), PROGRAM)


def _embedded_flags(server: ServerSettings, places: Places) -> dict[str, object]:
    """Return flags of the embedded server only. It polls models.config, so the reload call is off."""
    on = {"enable_tf32": server.tf32, "enable_deterministic_gpu": server.deterministic}
    growth = server.gpu_memory_growth
    return {
        "enable_reload_config": False,
        "reload_base_paths": places.models,
        "drain_seconds": server.drain_seconds,
        **{flag: True for flag, chosen in on.items() if chosen},
        **({} if growth is None else {"gpu_memory_growth": growth}),
    }


def _tensorflow_serving_flags(server: ServerSettings) -> dict[str, object]:
    """Return flags of TensorFlow Serving only.

    Its defaults are 4 threads for each CPU. It refuses gRPC calls beyond them, and REST metadata waits for predictions
    (seen on TensorFlow Serving 2.20). Without a flag for XLA it compiles nothing, so a request to a version that was
    exported with `--xla` fails (`DisableXlaCompilation` in `main.cc` of https://github.com/tensorflow/serving). That
    for CPUs is enough on a GPU, too. Other versions are not compiled in either case.
    """
    return {
        "grpc_max_threads": server.grpc_max_threads,
        "rest_api_num_threads": server.rest_api_num_threads,
        "xla_cpu_compilation_enabled": True,
    }


def grace_seconds(server: ServerSettings) -> int:
    """Return the seconds between SIGTERM and SIGKILL: longer than the drain."""
    return math.ceil(server.drain_seconds) + _SECONDS_TO_END


def models_config(fleet: Fleet, names: tuple[str, ...], places: Places) -> Any:
    """Return the ModelServerConfig for `--model_config_file`."""
    config = ModelServerConfig()
    for one in all_served(fleet, names):
        model = fleet.models[one.model]
        added = config.model_config_list.config.add(
            name=one.name, base_path=places.model(one.model), model_platform="tensorflow"
        )
        added.version_labels.update(one.labels)
        policy = added.model_version_policy
        if not one.newest:
            policy.specific.versions.extend(one.versions)
        elif model.versions == "all":
            policy.all.SetInParent()
        elif isinstance(model.versions, int):
            policy.latest.num_versions = model.versions
    return config


def batching_config(batching: Batching) -> Any:
    """Return the BatchingParameters for `--batching_parameters_file`."""
    config = BatchingParameters(
        allowed_batch_sizes=batching.allowed_batch_sizes or (),
        pad_variable_length_inputs=batching.pad_variable_length_inputs,
    )
    for name in (
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
        "enable_large_batch_splitting",
        "max_execution_batch_size",
    ):
        if (value := getattr(batching, name)) is not None:
            getattr(config, name).value = value
    return config


def monitoring_config() -> Any:
    """Return the MonitoringConfig for `--monitoring_config_file`."""
    return MonitoringConfig(prometheus_config={"enable": True, "path": METRICS_PATH})


def ssl_config(tls: TlsFiles) -> Any:
    """Return the SSLConfig for `--ssl_config_file`, which contains the PEM texts. Raises FleetError."""
    config = SSLConfig(client_verify=tls.verify_clients)
    for field, key in (("server_key", "key"), ("server_cert", "certificate"), ("custom_ca", "client_ca")):
        path: Path | None = getattr(tls, key)
        try:
            setattr(config, field, path.read_text() if path else "")
        except (OSError, UnicodeDecodeError) as error:
            raise FleetError(f"server.tls.{key}: {path}: {getattr(error, 'strerror', None) or error}") from None
    return config


def serve_script(server: ServerSettings, places: Places) -> str:
    """Return the bash script that runs TensorFlow Serving and ends it when no request is in flight. See serve.sh.

    `DRAIN_SECONDS` in its environment replaces `server.drain_seconds`.
    """
    ports = " ".join(f"{port:04X}" for port in (places.grpc_port, places.rest_port))
    # A request that waits for a batch uses no CPU time, and its connection has no bytes.
    quiet = 1 + math.ceil(server.batching.batch_timeout_micros / 1e6) if server.batching else 1
    return draining_script(
        server,
        f"""\
# The gRPC and REST ports in the format of /proc/net/tcp.
ports=" {ports} "
# In hundredths of a second: how long a server without requests is quiet, and the CPU time that it may use meanwhile.
quiet={100 * quiet}
background={_BACKGROUND * quiet}

{Path(__file__).with_name("in_flight.sh").read_text()}""",
    )


def draining_script(server: ServerSettings, in_flight: str) -> str:
    """Return the script that runs a program and drains it; `in_flight` defines how it detects requests."""
    return f"""\
#!/bin/bash
# Seconds.
longest=${{DRAIN_SECONDS:-{math.ceil(server.drain_seconds)}}}
{in_flight}
{Path(__file__).with_name(SERVE).read_text()}"""


def _place(places: Places, file: str) -> str:
    return str(PurePosixPath(places.config) / file)


def _flag(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
