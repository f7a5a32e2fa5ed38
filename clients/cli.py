"""The command `python -m clients`: asks a model server, and verifies what it serves."""

from __future__ import annotations

import click

from clients.commands.bench import bench
from clients.commands.calls import EXIT_CODES, Commands
from clients.commands.capture import capture
from clients.commands.completion import completion
from clients.commands.examples import classify, regress
from clients.commands.predict import predict
from clients.commands.reload import reload
from clients.commands.show import labels, metadata, status
from clients.commands.tune import tune
from clients.commands.verify import verify


@click.group(
    cls=Commands,
    epilog=f"""\b
Examples:
  python -m clients status --model digits
  python -m clients metadata --model digits --server http://127.0.0.1:8501
  python -m clients predict --model dense --input rows.npy --output answer.npz
  python -m clients verify models

{EXIT_CODES}""",
)
def main() -> None:
    """Asks a TensorFlow model server over gRPC or REST, and verifies that it serves what was exported."""


for command in (predict, classify, regress, metadata, status, labels, reload, verify, bench, tune, capture, completion):
    main.add_command(command)
