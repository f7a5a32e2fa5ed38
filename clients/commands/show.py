"""`status` and `metadata`: what a server says about a model."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from clients.commands.calls import EXIT_CODES, asking, check_pinned, server_options, version_options

json_option = click.option("--json", "as_json", is_flag=True, help="As JSON, on stdout.")


@click.command(
    epilog=f"""\b
Examples:
  python -m clients status --model digits
  python -m clients status --model digits --server http://127.0.0.1:8501 --json

{EXIT_CODES}"""
)
@server_options
@json_option
def status(model: str, server: str, timeout: float, as_json: bool) -> None:
    """Shows the versions of a model that the server knows, newest first, and their states."""
    with asking(server) as client:
        versions = client.status(model, timeout=timeout)
    if as_json:
        click.echo(json.dumps({"model": model, "versions": [asdict(version) for version in versions]}, indent=2))
    else:
        for version in versions:
            click.echo(f"{model} {version}")


@click.command(
    epilog=f"""\b
Examples:
  python -m clients metadata --model digits
  python -m clients metadata --model digits --version 2 --json

{EXIT_CODES}"""
)
@server_options
@version_options
@json_option
def metadata(*, model: str, server: str, timeout: float, version: int | None, label: str | None, as_json: bool) -> None:
    """Shows a model's signatures: the names, element types and shapes of inputs and outputs (-1 is any size)."""
    check_pinned(version, label)
    with asking(server) as client:
        found = client.metadata(model, version=version, label=label, timeout=timeout)
    if as_json:
        shown = asdict(found)
        for signature in shown["signatures"].values():
            signature["optional"] = sorted(signature["optional"])
        click.echo(json.dumps(shown, indent=2))
        return
    click.echo(f"{found.model} version {found.version}")
    for name, signature in found.signatures.items():
        click.echo(f"  {name}  ({signature.method})")
        width = max(map(len, (*signature.inputs, *signature.outputs)), default=0)
        for tensor, info in signature.inputs.items():
            default = "  (has a default)" if tensor in signature.optional else ""
            click.echo(f"    input   {tensor:<{width}}  {info}{default}")
        for tensor, info in signature.outputs.items():
            click.echo(f"    output  {tensor:<{width}}  {info}")
