"""`metadata`: the signatures of a model on a server."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from tfserving.clients.commands.calls import Target, server_options
from tfserving.clients.commands.model import Model, model_argument
from tfserving.clients.printable import printable
from tfserving.foundation.command.options import json_option

# The longest name that is shown.
MOST_NAME = 200


@click.command(
    epilog="""\b
Examples:
  tfserving metadata digits
  tfserving metadata digits/2 --json
  tfserving metadata digits --label canary --server http://127.0.0.1:8501"""
)
@model_argument
@server_options
@json_option
def metadata(*, target: Target, model: Model, as_json: bool) -> None:
    """Print the signatures of a served model.

    For each signature it prints the names, dtypes and shapes of the inputs and outputs. An unknown size is "?", in
    JSON null.
    """
    with target.connected() as client:
        found = client.metadata(model.name, version=model.version, label=model.label)
    if as_json:
        shown = asdict(found)
        for signature in shown["signatures"].values():
            signature["optional"] = sorted(signature["optional"])
        click.echo(json.dumps(shown, indent=2))
        return
    click.echo(printable(f"{found.model} version {found.version}"))
    for name, signature in found.signatures.items():
        click.echo(f"  {printable(name)}  ({printable(signature.method)})")
        tensors = [
            *(("input ", tensor, info, tensor in signature.optional) for tensor, info in signature.inputs.items()),
            *(("output", tensor, info, False) for tensor, info in signature.outputs.items()),
        ]
        names = [printable(tensor, MOST_NAME) for _, tensor, _, _ in tensors]
        width = max(map(len, names), default=0)
        for (kind, _, info, optional), tensor in zip(tensors, names, strict=True):
            default = "  (has a default)" if optional else ""
            click.echo(f"    {kind}  {tensor:<{width}}  {printable(str(info))}{default}")
