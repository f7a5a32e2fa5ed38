"""The flags, named and written as tensorflow_model_server's: `--port=8500`, `--flag`, `--flag=true`."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import click

from tfserving.serving.embedded.release import ALL, installed

_PORT = click.IntRange(0, 65535)
_COUNT = click.IntRange(0, 2**31 - 1)
_THREADS = click.IntRange(1, 2**16)
_MICROSECONDS = click.IntRange(0, 10**15)
_SECONDS = click.FloatRange(max=1e9)
_PATH = click.Path(path_type=Path)
# What may carry gRPC.
AUTO, NATIVE, GRPCIO = "auto", "native", "grpcio"
MOST_WORKERS = max(16, 4 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class Flags:
    """What the command line says; the flags are described at https://github.com/tensorflow/serving in `main.cc`."""

    port: Annotated[int, _PORT, "TCP port of gRPC; 0 means no gRPC."] = 8500
    rest_api_port: Annotated[int, _PORT, "TCP port of REST; 0 means no REST."] = 0
    host: Annotated[
        str, click.STRING, "Address to listen on; any but loopback lets others in. This server's own flag."
    ] = "127.0.0.1"
    grpc_socket_path: Annotated[str, click.STRING, "Path of a UNIX socket on which gRPC listens, too."] = ""
    grpc_channel_arguments: Annotated[str, click.STRING, "gRPC's own settings: key=value,key=value."] = ""
    model_name: Annotated[str, click.STRING, "Name of the model that --model_base_path holds."] = "default"
    model_base_path: Annotated[
        str | None, click.STRING, "Absolute folder with the versions of one model, or its file:// URI."
    ] = None
    model_config_file: Annotated[
        Path | None, _PATH, "Text ModelServerConfig; what it says overrides the two flags above."
    ] = None
    model_config_file_poll_wait_seconds: Annotated[
        float, _SECONDS, "How often that file is read and applied again; 0 or less: never."
    ] = 0.0
    file_system_poll_wait_seconds: Annotated[
        float,
        _SECONDS,
        "How often base paths are looked at; 0: once, at the start; less: never, so the server waits for ever.",
    ] = 1.0
    allow_version_labels_for_unavailable_models: Annotated[
        bool, click.BOOL, "Accept labels for versions that are not loaded."
    ] = False
    max_num_load_retries: Annotated[int, _COUNT, "How often a load that failed is tried again."] = 5
    load_retry_interval_micros: Annotated[int, _MICROSECONDS, "Time between these tries, in microseconds."] = 60_000_000
    saved_model_tags: Annotated[str, click.STRING, "Comma-separated tags of the graph that is loaded."] = "serve"
    enable_model_warmup: Annotated[bool, click.BOOL, "Play a version's warm-up requests before it is available."] = True
    num_request_iterations_for_warmup: Annotated[int, _COUNT, "How often each warm-up request is played; 0: once."] = 0
    grpc_max_threads: Annotated[
        int, _THREADS, "gRPC predictions that run at a time; others wait. TensorFlow Serving refuses those."
    ] = 4 * (os.cpu_count() or 1)
    rest_api_num_threads: Annotated[
        int, _THREADS, "REST predictions that run at a time; others wait. Status, metadata and metrics don't."
    ] = 4 * (os.cpu_count() or 1)
    enable_batching: Annotated[bool, click.BOOL, "Run requests together that wait at the same time."] = False
    batching_parameters_file: Annotated[Path | None, _PATH, "Text BatchingParameters; for --enable_batching."] = None
    enable_per_model_batching_parameters: Annotated[
        bool, click.BOOL, "Only versions that have a batching_params.pbtxt are batched, as it says."
    ] = False
    monitoring_config_file: Annotated[
        Path | None, _PATH, "Text MonitoringConfig: whether REST has a page for Prometheus, and where."
    ] = None
    rest_api_timeout_in_ms: Annotated[
        int, _COUNT, "How long a REST request may take, in milliseconds; 0: as long as it takes."
    ] = 30_000
    rest_api_enable_cors_support: Annotated[
        bool, click.BOOL, "Let any web page's scripts read REST answers (CORS headers)."
    ] = False
    enable_grpc_healthcheck_service: Annotated[bool, click.BOOL, "Serve grpc.health.v1.Health."] = False
    enable_signature_method_name_check: Annotated[
        bool, click.BOOL, "Ask a signature only as the method that it says it is for."
    ] = False
    enable_serialization_as_tensor_content: Annotated[
        bool, click.BOOL, "Answer gRPC predict in tensor_content instead of typed fields."
    ] = False
    tensorflow_session_config_file: Annotated[
        Path | None, _PATH, "Text ConfigProto for TensorFlow's sessions; the next flags come on top."
    ] = None
    tensorflow_session_parallelism: Annotated[int, _COUNT, "Whichever of the next two is not given."] = 0
    tensorflow_intra_op_parallelism: Annotated[int, _COUNT, "Threads inside one operation; 0: TensorFlow decides."] = 0
    tensorflow_inter_op_parallelism: Annotated[int, _COUNT, "Operations of a request that run at a time; 0: one."] = 0
    ssl_config_file: Annotated[Path | None, _PATH, "Text SSLConfig: gRPC is answered over TLS."] = None
    use_alts_credentials: Annotated[
        bool, click.BOOL, "Refused: this server has no ALTS. --ssl_config_file encrypts gRPC."
    ] = False
    rest_api_enable_tls: Annotated[
        bool, click.BOOL, "Answer REST over TLS too, as --ssl_config_file says. This server's own flag."
    ] = False
    enable_model_listing: Annotated[
        bool, click.BOOL, "Answer GET /v1/models with all models. This server's own flag."
    ] = False
    max_requests_in_flight: Annotated[
        int, _COUNT, "Refuse more requests than that at a time, of each protocol; 0: no limit. This server's own flag."
    ] = 0
    max_body_bytes: Annotated[
        int,
        _COUNT,
        "Largest REST body, also when it is inflated, and largest gRPC message; 0: no limit. This server's own flag.",
    ] = 64 * 2**20
    max_json_values: Annotated[
        int,
        _COUNT,
        "Most values in a REST request, where a string counts as four; a request of numbers alone has no limit. "
        "0: no limit. This server's own flag.",
    ] = 4 * 2**20
    rest_api_max_buffered_bytes: Annotated[
        int,
        _COUNT,
        "Largest sum of all REST bodies in memory, in bytes. Beyond it the slowest client is dropped; 0: no limit. "
        "This server's own flag.",
    ] = 2**30
    rest_api_max_connections: Annotated[
        int,
        _COUNT,
        "Most REST connections. Beyond it a new one replaces one that has no request; 0: no limit. "
        "This server's own flag.",
    ] = 4096
    rest_api_max_header_bytes: Annotated[
        int, _COUNT, "Largest REST request line and headers, in bytes; 0: no limit. This server's own flag."
    ] = 2**15
    rest_api_header_timeout_in_ms: Annotated[
        int, _COUNT, "Longest time until a REST request's headers are complete; 0: no limit. This server's own flag."
    ] = 60_000
    rest_api_read_timeout_in_ms: Annotated[
        int, _COUNT, "Longest pause between two parts of a REST body; 0: no limit. This server's own flag."
    ] = 60_000
    rest_api_body_timeout_in_ms: Annotated[
        int,
        _COUNT,
        "Longest time until a REST body is complete, a request's or a response's; 0: no limit. This server's own flag.",
    ] = 600_000
    rest_api_send_timeout_in_ms: Annotated[
        int, _COUNT, "Longest time in which a client reads nothing of a response; 0: no limit. This server's own flag."
    ] = 60_000
    rest_api_idle_timeout_in_ms: Annotated[
        int, _COUNT, "Longest time between two requests on a REST connection; 0: no limit. This server's own flag."
    ] = 75_000
    drain_seconds: Annotated[
        float,
        click.FloatRange(0, 1e9),
        "Longest wait for requests in flight after SIGTERM; those that take longer are cut off. "
        "This server's own flag.",
    ] = 60.0
    trusted_proxies: Annotated[
        str,
        click.STRING,
        "Comma-separated addresses and networks of proxies: the access log believes their X-Forwarded-For. "
        "This server's own flag.",
    ] = ""
    enable_version_metrics: Annotated[
        bool, click.BOOL, "Count requests by the version that answered, too. This server's own flag."
    ] = False
    access_log: Annotated[
        bool, click.BOOL, "Write a line of JSON for each request to the standard output. This server's own flag."
    ] = False
    request_log: Annotated[
        Path | None,
        click.Path(path_type=Path),
        "Log requests and answers as PredictionLog records to this path and -TIME-PROCESS.tfrecord. "
        "This server's own flag.",
    ] = None
    request_log_sampling_rate: Annotated[
        float, click.FloatRange(0, 1), "How many of the requests are logged: 0.01 is every hundredth."
    ] = 1.0
    request_log_max_bytes: Annotated[
        int,
        click.IntRange(0, 2**63 - 1),
        "How much all files of the request log may have; the oldest go; 0: no limit. This server's own flag.",
    ] = 10 * 2**30
    allow_file_and_python_ops: Annotated[
        bool,
        click.BOOL,
        "Serve models that read or write files, call Python, or have other operations that are not known to be safe. "
        "This server's own flag.",
    ] = False
    allowed_operations: Annotated[
        str,
        click.STRING,
        "Comma-separated operations that models may have besides those known to be safe. This server's own flag.",
    ] = ""
    check_shapes: Annotated[
        bool,
        click.BOOL,
        "Refuse a tensor whose rank or known sizes are not the signature's, which TensorFlow Serving lets the graph "
        "decide. This server's own flag.",
    ] = True
    max_grpc_parts: Annotated[
        int,
        _COUNT,
        "Refuse gRPC messages with more strings, examples, features and inputs; a tensor of numbers is one part; "
        "0: no limit. This server's own flag.",
    ] = 2**20
    grpc_receive_timeout_in_ms: Annotated[
        int,
        _COUNT,
        "How long a gRPC request may take to arrive, in milliseconds; 0: as long as it takes. This server's own flag.",
    ] = 60_000
    grpc_transport: Annotated[
        str,
        click.Choice([AUTO, NATIVE, GRPCIO]),
        "What carries gRPC: pygrpc-native, which is fast, or grpcio, which has TLS and more limits; auto: "
        "pygrpc-native on a loopback port, where it can do what the other flags ask. This server's own flag.",
    ] = AUTO
    max_run_time_in_ms: Annotated[
        int,
        _COUNT,
        "How long a model with loops may compute a request that has no deadline, in milliseconds; 0: no limit. "
        "This server's own flag.",
    ] = 300_000
    enable_reload_config: Annotated[
        bool, click.BOOL, "Serve HandleReloadConfigRequest, which changes what is served. This server's own flag."
    ] = True
    reload_base_paths: Annotated[
        str,
        click.STRING,
        "Comma-separated folders; HandleReloadConfigRequest may name base paths in them alone. Empty: any. "
        "This server's own flag.",
    ] = ""
    workers: Annotated[
        int,
        click.IntRange(1),
        "Processes that share the ports, and change versions in the same moment. This server's own flag.",
    ] = 1
    worker_timeout_seconds: Annotated[
        float,
        click.FloatRange(1, 1e9),
        "Kill and replace a worker that does not respond to the main process for so long. This server's own flag.",
    ] = 10.0
    explain_errors: Annotated[
        bool, click.BOOL, "Add what was sent and what is wanted to TensorFlow Serving's errors. This server's own flag."
    ] = True

    @property
    def reload_folders(self) -> tuple[Path, ...]:
        """What --reload_base_paths names."""
        return tuple(Path(folder) for folder in _parts(self.reload_base_paths))

    @property
    def grpc_settings(self) -> dict[str, str]:
        """What --grpc_channel_arguments sets."""
        pairs = (part.partition("=") for part in _parts(self.grpc_channel_arguments))
        return {key: value for key, _, value in pairs}


# Flags of tensorflow_model_server that make no sense here: accepted, so that one command line fits both, and said.
ELSEWHERE: dict[str, tuple[click.ParamType[Any], str]] = {
    "num_load_threads": (click.INT, "loading is mostly Python's work, two threads do it"),
    "num_unload_threads": (click.INT, "every version is unloaded in a thread of its own"),
    "flush_filesystem_caches": (click.BOOL, "nothing is read that the operating system should forget"),
    "remove_unused_fields_from_bundle_metagraph": (click.BOOL, "the graph's description is kept only by the session"),
    "per_process_gpu_memory_fraction": (click.FLOAT, "this server runs on the CPU"),
    "xla_gpu_compilation_enabled": (click.BOOL, "this server runs on the CPU"),
    "enable_profiler": (click.BOOL, "there is no profiler service"),
    "prefer_tflite_model": (click.BOOL, "there is no TensorFlow Lite here"),
    "num_tflite_interpreters_per_pool": (click.INT, "there is no TensorFlow Lite here"),
    "num_tflite_pools": (click.INT, "there is no TensorFlow Lite here"),
    "skip_initialize_tpu": (click.BOOL, "there is no TPU here"),
    "mixed_precision": (click.STRING, "this server runs on the CPU"),
    "xla_cpu_compilation_enabled": (click.BOOL, "export with --xla what XLA shall compile"),
    "platform_config_file": (_PATH, "there is one platform; batching and the session have files of their own"),
    "thread_pool_factory_config_file": (_PATH, "a request runs in the thread that answers it"),
}

EPILOG = """\b
Examples:
  python -m tfserving.serving.embedded --model_name=digits --model_base_path=$PWD/models/digits --rest_api_port=8501
  python -m tfserving.serving.embedded --port=9000 --model_config_file=models.config

\b
Exit codes:
  0  stopped by SIGTERM or SIGINT, requests in flight answered, or cut off after --drain_seconds
  1  it can't start: a port is taken, a model has no version or does not load
  2  the flags, or the configuration file they name, are wrong
"""


def _parts(listed: str) -> list[str]:
    return [part for part in listed.split(",") if part]


def command(run: Callable[[Flags], int]) -> click.Command:
    """The command that reads the flags and exits with what `run` returns for them."""

    def callback(**values: Any) -> None:
        for name, (_, why) in ELSEWHERE.items():
            if values.pop(name) is not None:
                click.echo(f"--{name} has no effect: {why}", err=True)
        flags = Flags(**values)
        _check(flags)
        raise SystemExit(run(flags))

    kinds = get_type_hints(Flags, include_extras=True)
    version = click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="Show the version, the release of TensorFlow Serving that it behaves like, and exit.",
    )
    return click.Command(
        "python -m tfserving.serving.embedded",
        callback=callback,
        params=[
            *(
                _option(field.name, field.default, *get_args(kinds[field.name])[1:])
                for field in dataclasses.fields(Flags)
            ),
            *(_option(name, None, kind, f"No effect: {why}.") for name, (kind, why) in ELSEWHERE.items()),
            version,
        ],
        help="Serve SavedModels over gRPC and REST as TensorFlow Serving does, in a Python process. The server behaves "
        f"like the TensorFlow Serving that belongs to the installed TensorFlow, {ALL}; --version prints which.",
        epilog=EPILOG,
        context_settings={"help_option_names": ["--help"], "max_content_width": 120, "show_default": True},
    )


def _option(name: str, default: Any, kind: click.ParamType[Any], text: str) -> click.Option:
    if kind is not click.BOOL:
        return click.Option([f"--{name}"], type=kind, default=default, help=text)
    # `--flag` alone is `--flag=true`.
    return click.Option(
        [f"--{name}"],
        type=kind,
        default=default,
        is_flag=False,
        flag_value="true",
        metavar="[=true|false]",
        help=text,
    )


def _check(flags: Flags) -> None:
    """Raises UsageError for the first of the things that flags can't say together."""
    threads = (flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism)
    settings = [one for one in _parts(flags.grpc_channel_arguments) if "=" not in one]
    networks = [one for one in _parts(flags.trusted_proxies) if not _is_network(one)]
    wrong = {
        "No model to serve; give --model_base_path or --model_config_file.": (
            flags.model_config_file is None and flags.model_base_path is None
        ),
        "Neither gRPC nor REST has a port; give --port or --rest_api_port.": (
            not flags.port and not flags.rest_api_port
        ),
        f"gRPC and REST can't both have port {flags.port}; change --port or --rest_api_port.": (
            flags.port == flags.rest_api_port
        ),
        "--tensorflow_session_parallelism is for whichever of --tensorflow_intra_op_parallelism and "
        "--tensorflow_inter_op_parallelism is not given; leave one of the three out.": (
            flags.tensorflow_session_parallelism and all(threads)
        ),
        "--model_config_file_poll_wait_seconds needs a --model_config_file to read.": (
            flags.model_config_file_poll_wait_seconds > 0 and flags.model_config_file is None
        ),
        "--batching_parameters_file needs --enable_batching.": (
            flags.batching_parameters_file is not None and not flags.enable_batching
        ),
        "--enable_per_model_batching_parameters needs --enable_batching.": (
            flags.enable_per_model_batching_parameters and not flags.enable_batching
        ),
        "--use_alts_credentials: this server has no ALTS; encrypt gRPC with --ssl_config_file.": (
            flags.use_alts_credentials
        ),
        "--rest_api_enable_tls needs an --ssl_config_file.": (
            flags.rest_api_enable_tls and flags.ssl_config_file is None
        ),
        "--request_log_sampling_rate needs a --request_log.": (
            flags.request_log_sampling_rate != 1 and flags.request_log is None
        ),
        "--request_log_max_bytes needs a --request_log.": (
            flags.request_log_max_bytes != Flags.request_log_max_bytes and flags.request_log is None
        ),
        f"--request_log_max_bytes={flags.request_log_max_bytes} has no room for requests; give at least {2**20}, or 0 "
        "for no limit.": 0 < flags.request_log_max_bytes < 2**20,
        f"--grpc_channel_arguments: {', '.join(settings)} is not key=value.": bool(settings),
        f"--trusted_proxies: {', '.join(networks)} is not an address or a network, as 10.0.0.1 and 10.1.0.0/16 are.": (
            bool(networks)
        ),
        f"--workers={flags.workers} is more than the {MOST_WORKERS} that this machine may have: 4 for each of its "
        f"{os.cpu_count()} CPUs, and 16 wherever.": flags.workers > MOST_WORKERS,
        "--workers needs Linux, which shares a port's connections among processes.": (
            flags.workers > 1 and platform.system() != "Linux"
        ),
        "--grpc_socket_path is one process's own; leave it, or --workers, out.": (
            flags.workers > 1 and bool(flags.grpc_socket_path)
        ),
        "--file_system_poll_wait_seconds=nan is not a number of seconds.": (
            math.isnan(flags.file_system_poll_wait_seconds)
        ),
    }
    for problem, found in wrong.items():
        if found:
            raise click.UsageError(problem)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text.strip())
    except ValueError:
        return False
    return True


def _print_version(context: click.Context, _parameter: click.Parameter, given: bool) -> None:
    if given:
        release = installed()
        click.echo(f"tfserving.serving.embedded, TensorFlow {release.tensorflow}, as {release}")
        context.exit()
