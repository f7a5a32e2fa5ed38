"""`status`, `metadata` and `labels`: what a server says about a model."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict

import click

from tfserving.clients.commands.calls import (
    EXIT_CODES,
    FAILED,
    Target,
    check_pinned,
    model_option,
    server_options,
    version_options,
)
from tfserving.clients.printable import printable
from tfserving.foundation.command.options import json_option
from tfserving.foundation.labels import CANARY, STABLE, canary_name

# How much of a name is shown.
MOST_NAME = 200


@click.command(
    epilog=f"""\b
Examples:
  tfserving client status --model digits
  tfserving client status --model digits --server http://127.0.0.1:8501 --json

{EXIT_CODES}"""
)
@server_options
@model_option
@json_option
def status(*, target: Target, model: str, as_json: bool) -> None:
    """Shows the versions of a model that the server knows, newest first, and their states."""
    with target.connected() as client:
        versions = client.status(model)
    if as_json:
        click.echo(json.dumps({"model": model, "versions": [asdict(version) for version in versions]}, indent=2))
    else:
        for version in versions:
            click.echo(f"{model} {version}")


@click.command(
    epilog=f"""\b
Examples:
  tfserving client metadata --model digits
  tfserving client metadata --model digits --version 2 --json

{EXIT_CODES}"""
)
@server_options
@model_option
@version_options
@json_option
def metadata(*, target: Target, model: str, version: int | None, label: str | None, as_json: bool) -> None:
    """Shows a model's signatures: the names, element types and shapes of inputs and outputs (-1 is any size)."""
    check_pinned(version, label)
    with target.connected() as client:
        found = client.metadata(model, version=version, label=label)
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


@click.command(
    epilog=f"""\b
Examples:
  tfserving client labels --model digits
  tfserving client labels --model digits stable canary shadow --json

{EXIT_CODES}"""
)
@server_options
@model_option
@json_option
@click.argument("labels", metavar="[LABEL]...", nargs=-1)
def labels(*, target: Target, model: str, labels: tuple[str, ...], as_json: bool) -> None:
    """Shows which version each LABEL of a model means, stable and canary unless others are named.

    TensorFlow Serving doesn't list labels, so each is asked for. One that is named here and means no available version
    is an error. Beside a label `stable`, the canary is a model of its own, MODEL-canary: its version is shown.
    """
    from tfserving.clients.errors import FailedPrecondition, InvalidArgument, NotFound

    found: dict[str, int | None] = {}
    with target.connected() as client:
        client.status(model)
        for label in labels or (STABLE, CANARY):
            found[label] = None
            for name in (model, canary_name(model)) if label == CANARY else (model,):
                with contextlib.suppress(FailedPrecondition, InvalidArgument, NotFound):
                    found[label] = client.metadata(name, label=label).version
                    break
    if as_json:
        click.echo(json.dumps({"model": model, "labels": found}, indent=2))
    else:
        width = max(map(len, found))
        for label, version in found.items():
            click.echo(
                f"{model} {label:<{width}}  {'no available version' if version is None else f'version {version}'}"
            )
    if labels and None in found.values():
        sys.exit(FAILED)
