"""The command `tfserving client`: asks a model server, and verifies what it serves."""

from __future__ import annotations

import click

from tfserving.clients.commands.bench import bench
from tfserving.clients.commands.calls import EXIT_CODES
from tfserving.clients.commands.capture import capture
from tfserving.clients.commands.examples import classify, regress
from tfserving.clients.commands.predict import predict
from tfserving.clients.commands.reload import reload
from tfserving.clients.commands.show import labels, metadata, status
from tfserving.clients.commands.tune import tune
from tfserving.clients.commands.verify import verify


@click.group(
    epilog=f"""\b
Examples:
  tfserving client status --model digits
  tfserving client metadata --model digits --server http://127.0.0.1:8501
  tfserving client predict --model dense --input rows.npy --output answer.npz
  tfserving client verify models

{EXIT_CODES}""",
)
def main() -> None:
    """Asks a TensorFlow model server over gRPC or REST, and verifies that it serves what was exported."""


for command in (predict, classify, regress, metadata, status, labels, reload, verify, bench, tune, capture):
    main.add_command(command)
