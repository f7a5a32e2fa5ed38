"""Which flags models.yaml may name under `server.flags`.

The flags are those of tensorflow_model_server, `main.cc` of https://github.com/tensorflow/serving, and what the
embedded server has of its own. The release notes of 2.21.0 and of 2.22.0-rc0 name no new flag.
"""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import click

from tfserving.serving.embedded.flags import NO_EFFECT, OWN, Flags
from tfserving.serving.embedded.release import ALL

# Flags that the toolkit sets itself, and what says it.
GENERATED = {
    "port": "--port",
    "rest_api_port": "--rest-port",
    "host": "--host",
    "model_name": "`models`",
    "model_base_path": "`models` and `folder`",
    "model_config_file": "`models`",
    "enable_batching": "`server.batching`",
    "batching_parameters_file": "`server.batching`",
    "monitoring_config_file": "`server.monitoring`",
    "ssl_config_file": "`server.tls`",
    "platform_config_file": "`server.gpu_memory_growth`",
    "per_process_gpu_memory_fraction": "`server.gpu_memory_fraction`",
    "model_config_file_poll_wait_seconds": "`tfserving serve reload`",
    "grpc_max_threads": "`server.grpc_max_threads`",
    "rest_api_num_threads": "`server.rest_api_num_threads`",
    "drain_seconds": "`server.drain_seconds`",
}
_HINTS = {name: get_args(hint) for name, hint in get_type_hints(Flags, include_extras=True).items()}
_KINDS: dict[str, Any] = {
    **{name: kind for name, (kind, _) in NO_EFFECT.items()},
    **{name: hint[1] for name, hint in _HINTS.items() if hint},
}


# TensorFlow Serving refuses to start with one of these.
EMBEDDED = OWN


def wrong(name: str, value: object) -> str | None:
    """What is wrong with a flag; None when nothing is."""
    if name not in _KINDS:
        return f"is not a flag of tensorflow_model_server {ALL} or of the embedded server"
    try:
        _KINDS[name].convert(str(value), None, None)
    except click.BadParameter as error:
        return error.message
    return None
