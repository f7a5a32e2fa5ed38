"""Which flags models.yaml may name under `server.flags`.

They are the flags of tensorflow_model_server (`main.cc` of https://github.com/tensorflow/serving) and the embedded
server's own. The release notes of 2.21.0 and of 2.22.0-rc0 name no new flag.
"""

from __future__ import annotations

import math
from typing import Any, get_args, get_type_hints

import click

from tfserving.serving.embedded.flags import NO_EFFECT, OWN, Flags
from tfserving.serving.embedded.release import ALL
from tfserving.serving.models_yaml.errors import shown, suggested

# Flags that the toolkit sets, and the option or key of models.yaml to use instead.
GENERATED = {
    "port": "the option --port",
    "rest_api_port": "the option --rest-port",
    "host": "the option --host",
    "model_name": "`models`",
    "model_base_path": "`models` and `folder`",
    "model_config_file": "`models`",
    "enable_batching": "`server.batching`",
    "batching_parameters_file": "`server.batching`",
    "monitoring_config_file": "`server.monitoring`",
    "ssl_config_file": "`server.tls`",
    # It replaces the flags for batching, warm-up and sessions.
    "platform_config_file": "`server.batching`, `server.gpu_memory_growth` and `server.flags`",
    "per_process_gpu_memory_fraction": "`server.gpu_memory_fraction`",
    "gpu_memory_growth": "`server.gpu_memory_growth`",
    "enable_tf32": "`server.tf32`",
    "enable_deterministic_gpu": "`server.deterministic`",
    "model_config_file_poll_wait_seconds": "the command `tfserving serve reload`",
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
    """Return what is wrong with a flag; None when nothing is wrong."""
    if name not in _KINDS:
        text = f"{name} is not a flag of tensorflow_model_server {ALL} or of the embedded server"
        return suggested(text, str(name), _KINDS)
    if not isinstance(value, str | int | float):
        return f"{name}: got {shown(value)}, expected {_expected(_KINDS[name])}"
    try:
        converted = _KINDS[name].convert(str(value), None, None)
    except click.BadParameter:
        converted = math.nan
    if isinstance(converted, float) and not math.isfinite(converted):
        return f"{name}: got {shown(value)}, expected {_expected(_KINDS[name])}"
    return None


def _expected(kind: click.ParamType[Any]) -> str:
    """Return what a flag of this type needs."""
    if isinstance(kind, click.Choice):
        return " or ".join(map(str, kind.choices))
    if isinstance(kind, click.types.BoolParamType):
        return "true or false"
    if not isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        return "text"
    text = "a whole number" if isinstance(kind, click.types.IntParamType) else "a number"
    least, most = getattr(kind, "min", None), getattr(kind, "max", None)
    if least is not None:
        return f"{text} from {least} to {most}" if most is not None else f"{text} of at least {least}"
    return f"{text} of at most {most}" if most is not None else text
