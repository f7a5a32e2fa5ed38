"""`reload`: another config for a running server."""

from __future__ import annotations

import click

from tfserving.clients.commands.calls import EXIT_CODES, Target, server_options

# Many thousands of models; the server gets it as one message.
LARGEST_CONFIG = 16 * 1024 * 1024


@click.command(
    epilog=f"""\b
Examples:
  tfserving client reload models.config
  tfserving client reload models.config --server grpc://10.0.0.7:8500 --timeout 120

{EXIT_CODES}"""
)
@server_options
@click.argument("config", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
def reload(*, target: Target, config: str) -> None:
    """Has a server serve what CONFIG says, a models.config in text form (- for stdin), and waits until it does.

    Models that CONFIG doesn't name are unloaded. A server that polls a config file of its own goes back to that one
    when the file changes. Over gRPC alone. --timeout covers the loading, too.
    """
    from tfserving.foundation.given import given_text

    try:
        text = given_text(config, LARGEST_CONFIG)
    except OSError as error:
        raise click.BadParameter(str(error), param_hint="CONFIG") from None
    with target.connected() as client:
        client.reload_config(text)
    click.echo(f"{target.url} serves what {'standard input' if config == '-' else config} says")
