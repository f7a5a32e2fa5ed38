"""`reload`: another config for a running server."""

from __future__ import annotations

from typing import TextIO

import click

from tfserving.clients.commands.calls import EXIT_CODES, Target, server_options


@click.command(
    epilog=f"""\b
Examples:
  tfserving client reload models.config
  tfserving client reload models.config --server grpc://10.0.0.7:8500 --timeout 120

{EXIT_CODES}"""
)
@server_options
@click.argument("config", type=click.File(encoding="utf-8"))
def reload(*, target: Target, config: TextIO) -> None:
    """Has a server serve what CONFIG says, a models.config in text form (- for stdin), and waits until it does.

    Models that CONFIG doesn't name are unloaded. A server that polls a config file of its own goes back to that one
    when the file changes. Over gRPC alone. --timeout covers the loading, too.
    """
    text = config.read()
    with target.asking() as client:
        client.reload_config(text)
    click.echo(f"{target.url} serves what {config.name} says")
