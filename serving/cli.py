"""The command `tfserving serve`: runs model servers over the fleet, and changes what they serve."""

from __future__ import annotations

import click

from tfserving.serving.commands.change import config, labels, reload
from tfserving.serving.commands.compose import compose
from tfserving.serving.commands.image import image
from tfserving.serving.commands.local import check, example, list_fleet, run
from tfserving.serving.commands.options import Commands
from tfserving.serving.commands.stay import down, logs, restart, status, up


@click.group(
    cls=Commands,
    epilog="""\b
Examples:
  tfserving serve run                       the whole fleet, on the best engine there is
  tfserving serve run digits --port 9500    one model, gRPC on another port
  tfserving serve up                        the fleet in a container that stays
  tfserving serve labels set digits canary=2
  tfserving serve config --check            what is wrong with models.yaml
  tfserving serve fleet --json              what models.yaml comes to

\b
Exit codes: 0 done, or a server stopped by Ctrl-C or SIGTERM; 1 a server did not become ready, or ended by
itself; 2 something was wrong before anything started: the usage, models.yaml, the engine, a port; 130 Ctrl-C
before a server was ready.""",
)
def main() -> None:
    """Runs a TensorFlow model server over the models of models.yaml."""


_SERVERS = (run, up, down, status, logs, restart)
_CONFIGURATION = (config, labels, reload)
for _command in (*_SERVERS, *_CONFIGURATION, compose, image, list_fleet, check, example):
    main.add_command(_command)
