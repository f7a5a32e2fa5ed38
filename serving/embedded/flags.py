"""The flags of the server, with their types, defaults and help texts.

Flags that TensorFlow Serving has too keep its names, defaults and meanings: see `main.cc` of
https://github.com/tensorflow/serving.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click

_PORT = click.IntRange(0, 65535)
_COUNT = click.IntRange(0, 2**31 - 1)
_THREADS = click.IntRange(1, 2**16)
_MICROSECONDS = click.IntRange(0, 10**15)
_SECONDS = click.FloatRange(max=1e9)
_PATH = click.Path(path_type=Path)
# The values of --grpc_transport.
AUTO, NATIVE, GRPCIO = "auto", "native", "grpcio"
# The value of --mixed_precision.
BFLOAT16 = "bfloat16"
# More than one GPU's memory is in the host's memory.
MOST_FRACTION = 100.0
MOST_WORKERS = max(16, 4 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class ServingFlags:
    """The flags of tensorflow_model_server that this server implements."""

    port: Annotated[int, _PORT, "TCP port of gRPC; 0 turns gRPC off."] = 8500
    rest_api_port: Annotated[int, _PORT, "TCP port of REST; 0 turns REST off."] = 0
    grpc_socket_path: Annotated[str, click.STRING, "Path of a UNIX socket on which gRPC listens too."] = ""
    grpc_channel_arguments: Annotated[str, click.STRING, "Settings of gRPC: key=value,key=value."] = ""
    model_name: Annotated[str, click.STRING, "Name of the model in --model_base_path."] = "default"
    model_base_path: Annotated[
        str | None, click.STRING, "Folder with the versions of one model: an absolute path or a file:// URI."
    ] = None
    model_config_file: Annotated[
        Path | None, _PATH, "Text ModelServerConfig. It overrides --model_name and --model_base_path."
    ] = None
    model_config_file_poll_wait_seconds: Annotated[
        float, _SECONDS, "Seconds between reads of --model_config_file; 0 or less: it is read once."
    ] = 0.0
    file_system_poll_wait_seconds: Annotated[
        float,
        _SECONDS,
        "Seconds between scans of the base paths for versions. 0: one scan at the start. Less: no scan, so the server "
        "waits until it is stopped.",
    ] = 1.0
    allow_version_labels_for_unavailable_models: Annotated[
        bool, click.BOOL, "Accept labels for versions that are not loaded."
    ] = False
    max_num_load_retries: Annotated[int, _COUNT, "How many times to retry a load that failed."] = 5
    load_retry_interval_micros: Annotated[int, _MICROSECONDS, "Microseconds between these retries."] = 60_000_000
    saved_model_tags: Annotated[str, click.STRING, "Comma-separated tags of the graph to load."] = "serve"
    enable_model_warmup: Annotated[
        bool, click.BOOL, "Run a version's warm-up requests before it becomes available."
    ] = True
    num_request_iterations_for_warmup: Annotated[
        int, _COUNT, "How many times to run each warm-up request; 0: once."
    ] = 0
    grpc_max_threads: Annotated[
        int, _THREADS, "Most gRPC predictions that run at a time. Others wait; TensorFlow Serving refuses them."
    ] = 4 * (os.cpu_count() or 1)
    rest_api_num_threads: Annotated[
        int, _THREADS, "Most REST predictions that run at a time. Others wait. Status, metadata and metrics never wait."
    ] = 4 * (os.cpu_count() or 1)
    enable_batching: Annotated[bool, click.BOOL, "Run requests that wait at the same time as one batch."] = False
    batching_parameters_file: Annotated[Path | None, _PATH, "Text BatchingParameters; requires --enable_batching."] = (
        None
    )
    enable_per_model_batching_parameters: Annotated[
        bool, click.BOOL, "Batch only versions that contain a batching_params.pbtxt, with its parameters."
    ] = False
    monitoring_config_file: Annotated[
        Path | None, _PATH, "Text MonitoringConfig: turns the Prometheus page of REST on and sets its path."
    ] = None
    rest_api_timeout_in_ms: Annotated[int, _COUNT, "Timeout of a REST request, in milliseconds; 0: no limit."] = 30_000
    rest_api_enable_cors_support: Annotated[
        bool, click.BOOL, "Send CORS headers, so that scripts of any web page can read REST responses."
    ] = False
    enable_grpc_healthcheck_service: Annotated[bool, click.BOOL, "Serve grpc.health.v1.Health."] = False
    enable_signature_method_name_check: Annotated[
        bool, click.BOOL, "Refuse a call whose method is not the method name of the signature."
    ] = False
    enable_serialization_as_tensor_content: Annotated[
        bool, click.BOOL, "Return gRPC predict outputs in tensor_content instead of typed fields."
    ] = False
    tensorflow_session_config_file: Annotated[
        Path | None, _PATH, "Text ConfigProto for TensorFlow's sessions. Flags override it."
    ] = None
    tensorflow_session_parallelism: Annotated[
        int, _COUNT, "Sets --tensorflow_intra_op_parallelism and --tensorflow_inter_op_parallelism where they are 0."
    ] = 0
    tensorflow_intra_op_parallelism: Annotated[int, _COUNT, "Threads of one operation; 0: TensorFlow's default."] = 0
    tensorflow_inter_op_parallelism: Annotated[int, _COUNT, "Operations of a request that run at a time; 0: one."] = 0
    per_process_gpu_memory_fraction: Annotated[
        float,
        click.FloatRange(0, MOST_FRACTION),
        "Part of the GPU's memory that the server allocates: 0.5 is half of it. 0: what it needs, or nearly all with "
        "--gpu_memory_growth=false. Above 1: also memory of the host, which is slow.",
    ] = 0.0
    xla_gpu_compilation_enabled: Annotated[
        bool,
        click.BOOL,
        "Allow versions that XLA compiles on a GPU. This server always allows them; TensorFlow Serving requires the "
        "flag.",
    ] = False
    mixed_precision: Annotated[
        str | None,
        click.Choice([BFLOAT16]),
        "Compute in bfloat16, which keeps 2 to 3 digits, where the CPU has instructions for it. It applies only to "
        "operations on the CPU.",
    ] = None
    ssl_config_file: Annotated[Path | None, _PATH, "Text SSLConfig: serve gRPC over TLS."] = None
    use_alts_credentials: Annotated[
        bool, click.BOOL, "Not supported: this server has no ALTS. Use --ssl_config_file."
    ] = False


@dataclass(frozen=True)
class Flags(ServingFlags):
    """All flags of this server."""

    host: Annotated[
        str, click.STRING, "Address to listen on. Other machines can connect unless it is a loopback address."
    ] = "127.0.0.1"
    rest_api_enable_tls: Annotated[bool, click.BOOL, "Serve REST over TLS too, with --ssl_config_file."] = False
    enable_model_listing: Annotated[bool, click.BOOL, "List all models at GET /v1/models."] = False
    max_requests_in_flight: Annotated[
        int, _COUNT, "Refuse predictions beyond this number at a time, for each protocol; 0: no limit."
    ] = 0
    max_body_bytes: Annotated[
        int, _COUNT, "Largest REST body, also after inflating it, and largest gRPC message, in bytes; 0: no limit."
    ] = 64 * 2**20
    max_json_values: Annotated[
        int,
        _COUNT,
        "Most values in a REST request. A string counts as four, and a request that contains only numbers has no "
        "limit. 0: no limit.",
    ] = 4 * 2**20
    rest_api_max_buffered_bytes: Annotated[
        int, _COUNT, "Most bytes of all REST bodies in memory. Beyond it the slowest client is dropped; 0: no limit."
    ] = 2**30
    rest_api_max_connections: Annotated[
        int, _COUNT, "Most REST connections. Beyond it a new one replaces one that has no request; 0: no limit."
    ] = 4096
    rest_api_max_header_bytes: Annotated[
        int, _COUNT, "Largest REST request line with its headers, in bytes; 0: no limit."
    ] = 2**15
    rest_api_header_timeout_in_ms: Annotated[
        int, _COUNT, "Longest time until the headers of a REST request are complete, in milliseconds; 0: no limit."
    ] = 60_000
    rest_api_read_timeout_in_ms: Annotated[
        int, _COUNT, "Longest pause between two parts of a REST body, in milliseconds; 0: no limit."
    ] = 60_000
    rest_api_body_timeout_in_ms: Annotated[
        int,
        _COUNT,
        "Longest time until the body of a REST request or response is complete, in milliseconds; 0: no limit.",
    ] = 600_000
    rest_api_send_timeout_in_ms: Annotated[
        int, _COUNT, "Longest time in which a client reads nothing of a response, in milliseconds; 0: no limit."
    ] = 60_000
    rest_api_idle_timeout_in_ms: Annotated[
        int, _COUNT, "Longest time between two requests on a REST connection, in milliseconds; 0: no limit."
    ] = 75_000
    drain_seconds: Annotated[
        float,
        click.FloatRange(0, 1e9),
        "Longest wait for requests in flight after SIGTERM. Requests that take longer are cut off.",
    ] = 60.0
    trusted_proxies: Annotated[
        str,
        click.STRING,
        "Comma-separated addresses and networks of proxies whose X-Forwarded-For the access log trusts.",
    ] = ""
    enable_version_metrics: Annotated[bool, click.BOOL, "Also count requests by the version that served them."] = False
    access_log: Annotated[bool, click.BOOL, "Print one line of JSON for each request to stdout."] = False
    request_log: Annotated[
        Path | None,
        click.Path(path_type=Path),
        "Write requests and responses as PredictionLog records to files named PATH-TIME-PROCESS.tfrecord.",
    ] = None
    request_log_sampling_rate: Annotated[
        float, click.FloatRange(0, 1), "Part of the requests to log: 0.01 is every hundredth."
    ] = 1.0
    request_log_max_bytes: Annotated[
        int,
        click.IntRange(0, 2**63 - 1),
        "Most bytes of all files of the request log. Beyond it the oldest are removed; 0: no limit.",
    ] = 10 * 2**30
    allow_file_and_python_ops: Annotated[
        bool,
        click.BOOL,
        "Serve models with operations that are not known to be safe, for example those that access files or call "
        "Python.",
    ] = False
    allowed_operations: Annotated[
        str, click.STRING, "Comma-separated operations that are allowed besides those known to be safe."
    ] = ""
    check_shapes: Annotated[
        bool,
        click.BOOL,
        "Refuse a tensor whose rank or known sizes differ from the signature's. TensorFlow Serving leaves this check "
        "to the graph.",
    ] = True
    max_grpc_parts: Annotated[
        int,
        _COUNT,
        "Most strings, examples, features and inputs in a gRPC message. A tensor of numbers counts as one; 0: no "
        "limit.",
    ] = 2**20
    grpc_receive_timeout_in_ms: Annotated[
        int, _COUNT, "Longest time until a gRPC request has arrived, in milliseconds; 0: no limit."
    ] = 60_000
    grpc_transport: Annotated[
        str,
        click.Choice([AUTO, NATIVE, GRPCIO]),
        "Library that carries gRPC. native: pygrpc-native, which is fast. grpcio: supports TLS and more limits. auto: "
        "pygrpc-native on a loopback port if it supports the other flags, else grpcio.",
    ] = AUTO
    max_run_time_in_ms: Annotated[
        int,
        _COUNT,
        "Longest run of a model with loops for a request without a deadline, in milliseconds; 0: no limit.",
    ] = 300_000
    enable_reload_config: Annotated[
        bool, click.BOOL, "Serve HandleReloadConfigRequest, which changes the models that are served."
    ] = True
    reload_base_paths: Annotated[
        str,
        click.STRING,
        "Comma-separated folders that HandleReloadConfigRequest may name base paths in. Empty: any folder.",
    ] = ""
    workers: Annotated[
        int, click.IntRange(1), "Processes that share the ports. All change versions at the same moment."
    ] = 1
    gpu_memory_growth: Annotated[
        bool | None,
        click.BOOL,
        "Allocate GPU memory when it is needed, instead of at the first load. Default: true without "
        "--per_process_gpu_memory_fraction, else false.",
    ] = None
    enable_tf32: Annotated[
        bool,
        click.BOOL,
        "Compute float32 in TF32 on a GPU that has it: faster for large batches, with errors of 1e-4 to 5e-2 of the "
        "outputs' scale.",
    ] = False
    enable_deterministic_gpu: Annotated[
        bool,
        click.BOOL,
        "Choose cuDNN's algorithms by rule instead of by measuring them, so that all processes on the same kind of "
        "GPU return the same bits.",
    ] = False
    worker_timeout_seconds: Annotated[
        float,
        click.FloatRange(1, 1e9),
        "Kill and replace a worker that does not respond to the main process for this long.",
    ] = 10.0
    explain_errors: Annotated[
        bool, click.BOOL, "Add what was sent and what is expected to the error texts of TensorFlow Serving."
    ] = True

    @property
    def reload_folders(self) -> tuple[Path, ...]:
        """The folders of --reload_base_paths."""
        return tuple(Path(folder) for folder in parts(self.reload_base_paths))

    @property
    def grpc_settings(self) -> dict[str, str]:
        """The settings of --grpc_channel_arguments, by their keys."""
        pairs = (part.partition("=") for part in parts(self.grpc_channel_arguments))
        return {key: value for key, _, value in pairs}


# The flags that TensorFlow Serving does not have.
OWN = frozenset(field.name for field in dataclasses.fields(Flags)) - {
    field.name for field in dataclasses.fields(ServingFlags)
}

# Flags of tensorflow_model_server that this server accepts, so that one command line fits both, and ignores.
NO_EFFECT: dict[str, tuple[click.ParamType[Any], str]] = {
    "num_load_threads": (click.INT, "two threads load versions, since loading is mostly Python's work"),
    "num_unload_threads": (click.INT, "each version is unloaded in its own thread"),
    "flush_filesystem_caches": (click.BOOL, "local files have no cache to flush"),
    "remove_unused_fields_from_bundle_metagraph": (click.BOOL, "only the session keeps the graph's description"),
    "enable_profiler": (click.BOOL, "this server has no profiler service"),
    "prefer_tflite_model": (click.BOOL, "this server has no TensorFlow Lite"),
    "num_tflite_interpreters_per_pool": (click.INT, "this server has no TensorFlow Lite"),
    "num_tflite_pools": (click.INT, "this server has no TensorFlow Lite"),
    "skip_initialize_tpu": (click.BOOL, "this server uses no TPU"),
    "xla_cpu_compilation_enabled": (click.BOOL, "use `tfserving export build --xla` instead"),
    "platform_config_file": (_PATH, "batching and sessions have their own flags"),
    "thread_pool_factory_config_file": (_PATH, "a request runs in the thread that serves it"),
}


def parts(listed: str) -> list[str]:
    """The parts of a list with commas, without empty ones."""
    return [part for part in listed.split(",") if part]
