"""The command line of the server.

Flags are written as for tensorflow_model_server: `--port=8500`, `--flag`, `--flag=true`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
import platform
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import click

from tfserving.serving.embedded.flags import MOST_WORKERS, NO_EFFECT, OWN, Flags, ServingFlags, parts
from tfserving.serving.embedded.release import ALL, installed

PROGRAM = "python -m tfserving.serving.embedded"
MOST_COLUMNS = 80
SECTIONS = {
    "Flags of TensorFlow Serving": {field.name for field in dataclasses.fields(ServingFlags)},
    "Flags of this server only": OWN,
    "Flags of TensorFlow Serving that have no effect here": NO_EFFECT.keys(),
}
METAVARS = {"boolean": "[=true|false]", "integer range": "INTEGER", "float range": "NUMBER"}
EPILOG = """\b
Examples:
  python -m tfserving.serving.embedded --model_name=digits \\
      --model_base_path=$PWD/models/digits --rest_api_port=8501
  python -m tfserving.serving.embedded --port=9000 \\
      --model_config_file=models.config

\b
Exit codes:
  0  Stopped by SIGTERM or SIGINT, after requests in flight were completed or
     --drain_seconds were over.
  1  The start failed: a port is in use, or a model does not load.
  2  A flag, or the configuration file that it names, is wrong.
"""


def command(run: Callable[[Flags], int]) -> click.Command:
    """Return the command that reads the flags and exits with the exit code that `run` returns for them."""

    def callback(**values: Any) -> None:
        for name, (_, why) in NO_EFFECT.items():
            # `false` turns off a feature that this server doesn't have.
            if values.pop(name) not in (None, False):
                click.echo(f"Warning: --{name} has no effect: {why}.", err=True)
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
        help="Print the version, and the release of TensorFlow Serving that it behaves like.",
    )
    return _Command(
        PROGRAM,
        callback=callback,
        params=[
            *(
                _option(field.name, field.default, *get_args(kinds[field.name])[1:])
                for field in dataclasses.fields(Flags)
            ),
            *(_option(name, None, kind, f"{why[0].upper()}{why[1:]}.") for name, (kind, why) in NO_EFFECT.items()),
            version,
        ],
        help="Serve SavedModels over gRPC and REST as TensorFlow Serving does, in a Python process.\n\nThe server "
        f"behaves like the release of TensorFlow Serving that belongs to the installed TensorFlow, {ALL}. --version "
        "prints which.",
        epilog=EPILOG,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "max_content_width": MOST_COLUMNS,
            "show_default": True,
        },
    )


class _Command(click.Command):
    """Lists the flags in its help by whose they are."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags, in sections."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            title = next((title for title, names in SECTIONS.items() if param.name in names), "Options")
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class _Option(click.Option):
    """A flag whose help has no range: an error about a value out of range names it."""

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        """Return the parts of the help in brackets."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


def _option(name: str, default: Any, kind: click.ParamType[Any], text: str) -> click.Option:
    option = _Option([f"--{name}"], type=kind, default=default, help=text, show_default=default != "")
    if kind is click.BOOL:
        # `--flag` alone is `--flag=true`.
        option = _Option([f"--{name}"], type=kind, default=default, is_flag=False, flag_value="true", help=text)
    option.metavar = METAVARS.get(kind.name)
    return option


def _check(flags: Flags) -> None:
    """Raise UsageError for the first combination of flags that can't work."""
    threads = (flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism)
    settings = [one for one in parts(flags.grpc_channel_arguments) if "=" not in one]
    networks = [one for one in parts(flags.trusted_proxies) if not _is_network(one)]
    wrong = {
        "No model to serve. Set --model_base_path or --model_config_file.": (
            flags.model_config_file is None and flags.model_base_path is None
        ),
        "Neither gRPC nor REST has a port. Set --port or --rest_api_port.": (
            not flags.port and not flags.rest_api_port
        ),
        f"gRPC and REST can't share port {flags.port}. Change --port or --rest_api_port.": (
            flags.port == flags.rest_api_port
        ),
        "--tensorflow_session_parallelism has no effect when both --tensorflow_intra_op_parallelism and "
        "--tensorflow_inter_op_parallelism are set. Remove one of the three.": (
            flags.tensorflow_session_parallelism and all(threads)
        ),
        "--model_config_file_poll_wait_seconds requires --model_config_file.": (
            flags.model_config_file_poll_wait_seconds > 0 and flags.model_config_file is None
        ),
        "--batching_parameters_file requires --enable_batching.": (
            flags.batching_parameters_file is not None and not flags.enable_batching
        ),
        "--enable_per_model_batching_parameters requires --enable_batching.": (
            flags.enable_per_model_batching_parameters and not flags.enable_batching
        ),
        "--use_alts_credentials: this server has no ALTS. Use --ssl_config_file to encrypt gRPC.": (
            flags.use_alts_credentials
        ),
        "--rest_api_enable_tls requires --ssl_config_file.": (
            flags.rest_api_enable_tls and flags.ssl_config_file is None
        ),
        "--request_log_sampling_rate requires --request_log.": (
            flags.request_log_sampling_rate != 1 and flags.request_log is None
        ),
        "--request_log_max_bytes requires --request_log.": (
            flags.request_log_max_bytes != Flags.request_log_max_bytes and flags.request_log is None
        ),
        f"--request_log_max_bytes={flags.request_log_max_bytes} is too small. Set at least {2**20}, or 0 for no "
        "limit.": 0 < flags.request_log_max_bytes < 2**20,
        f"--grpc_channel_arguments: {', '.join(settings)} is not key=value.": bool(settings),
        f"--trusted_proxies: {', '.join(networks)} is not an address or a network, such as 10.0.0.1 or "
        "10.1.0.0/16.": bool(networks),
        f"--workers={flags.workers} is more than {MOST_WORKERS}, the limit of this machine: 4 for each of its "
        f"{os.cpu_count()} CPUs, or 16.": flags.workers > MOST_WORKERS,
        "--workers requires Linux, where processes can share a port.": (
            flags.workers > 1 and platform.system() != "Linux"
        ),
        "--grpc_socket_path and --workers can't be combined: a UNIX socket belongs to one process. Remove one of "
        "them.": flags.workers > 1 and bool(flags.grpc_socket_path),
        "--file_system_poll_wait_seconds=nan is not a number of seconds.": (
            math.isnan(flags.file_system_poll_wait_seconds)
        ),
        "--per_process_gpu_memory_fraction=nan is not a part of the GPU's memory.": (
            math.isnan(flags.per_process_gpu_memory_fraction)
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
