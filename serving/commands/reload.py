"""`serve reload`: another configuration for running servers."""

from __future__ import annotations

from pathlib import Path

import click

from tfserving.clients.commands.calls import Target, optional_server_options
from tfserving.foundation.command.options import fleet_option, wait_option
from tfserving.serving.commands.applying import apply
from tfserving.serving.commands.failures import before_it_starts
from tfserving.serving.commands.options import changing_fleet

# Many thousands of models; the server receives it in one message.
_LARGEST_CONFIG = 16 << 20


@click.command(
    epilog="""\b
Examples:
  tfserving export build digits && tfserving serve reload
  tfserving serve reload --server grpc://10.0.0.7:8500 --config models.config"""
)
@fleet_option
@optional_server_options
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="With --server, the models.config to send, a text ModelServerConfig.",
)
@wait_option
def reload(*, fleet: Path, target: Target | None, config: str | None, wait: float) -> None:
    """Load changed models, versions and labels of models.yaml.

    A server that was started for chosen models keeps to these. Other settings
    in models.yaml need a restart. If models.yaml has `trust`, a version that
    was exported since is loaded by this command, after it is checked who
    signed it. With --server and --config, send FILE to any
    TensorFlow Serving over gRPC. It unloads models that FILE does not name.
    """
    if target is not None:
        _send(target, config)
        return
    if config is not None:
        raise click.UsageError("--config needs --server URL, the server to send it to.")
    from tfserving.serving.models_yaml.fleet import read_fleet

    with changing_fleet(fleet, wait):
        with before_it_starts():
            read = read_fleet(fleet)
        apply(read, tuple(read.models), wait, listed=True)


def _send(target: Target, config: str | None) -> None:
    """Send a ModelServerConfig to a server, which returns when it has loaded new models."""
    from google.protobuf import text_format

    from tfserving.foundation.given import given_text
    from tfserving.foundation.messages import ModelServerConfig

    if config is None:
        raise click.UsageError("--server needs --config FILE, the models.config to send.")
    try:
        text = given_text(config, _LARGEST_CONFIG)
    except OSError as error:
        raise click.BadParameter(str(error), param_hint="--config") from None
    try:
        text_format.Parse(text, ModelServerConfig())
    except text_format.ParseError as error:
        raise click.BadParameter(f"{config} is not a text ModelServerConfig: {error}", param_hint="--config") from None
    with target.connected() as client:
        client.reload_config(text)
    click.echo(f"{target.url} serves the models of {'stdin' if config == '-' else config}")
