"""`predict`: one request to a model, from the command line."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clients.commands.calls import (
    EXIT_CODES,
    FAILED,
    WRONG_USAGE,
    asking,
    check_pinned,
    server_options,
    version_options,
)
from clients.commands.show import json_option

if TYPE_CHECKING:
    from clients.client import Client
    from clients.commands.input_values import GivenInputs
    from clients.tensors import Array


@click.command(
    epilog=f"""\b
Examples:
  python -m clients predict --model dense --input '[[0.5, 1.5, 2.5]]'
  python -m clients predict --model digits --input image=images.npy --output answer.npz
  python -m clients predict --model digits --input request.json --server http://127.0.0.1:8501
  python -m clients predict --model pair --input 'a=[1, 2]' --input b=columns.npy --json
  curl -s https://example.com/request.json | python -m clients predict --model digits --input -

{EXIT_CODES}"""
)
@server_options
@version_options
@click.option(
    "--input",
    "given",
    multiple=True,
    required=True,
    metavar="[NAME=]VALUE",
    help="An input: JSON, a .json, .npy or .npz file, or - for JSON on stdin. NAME= can be left out when the "
    "signature has one input, and for what has names in it: an .npz, a JSON object of names, a REST request "
    '({"inputs": …} or {"instances": […]}). Can be given several times.',
)
@click.option("--signature", help="The signature to call.  [default: serving_default]")
@json_option
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the outputs to this .npz file instead of showing them.",
)
def predict(
    *,
    model: str,
    server: str,
    timeout: float,
    version: int | None,
    label: str | None,
    given: tuple[str, ...],
    signature: str | None,
    as_json: bool,
    output: Path | None,
) -> None:
    """Asks a model for a prediction and shows its outputs.

    The inputs are checked against the server's metadata before they are sent. JSON's numbers take the element types
    that the signature wants; an array of a file must have them.
    """
    from clients.calls import DEFAULT_SIGNATURE
    from clients.commands import output_values
    from clients.commands.input_values import InputError, read_inputs

    check_pinned(version, label)
    if output is not None:
        _check_output(output)
    try:
        inputs = read_inputs(given)
    except InputError as error:
        raise click.BadParameter(str(error), param_hint="--input") from None
    name = signature or inputs.signature or DEFAULT_SIGNATURE
    deadline = time.monotonic() + timeout
    with asking(server) as client:
        arrays = _checked(client, model, inputs, name, version=version, label=label, timeout=timeout)
        answer = client.predict(
            model, arrays, signature=name, version=version, label=label, timeout=max(deadline - time.monotonic(), 0.001)
        )
    try:
        if output is not None:
            output_values.save(output, answer.outputs)
            click.echo(f"{output}: {', '.join(answer.outputs)}", err=True)
        if as_json:
            click.echo(output_values.as_json(answer))
        elif output is None:
            click.echo(output_values.as_text(answer))
    except (OSError, ValueError) as error:
        click.echo(f"Error: {output}: {error}", err=True)
        sys.exit(FAILED)


def _checked(
    client: Client,
    model: str,
    given: GivenInputs,
    name: str,
    *,
    version: int | None,
    label: str | None,
    timeout: float,
) -> dict[str, Array]:
    """The arrays to send; what doesn't fit the signature ends the command before anything is sent."""
    from clients.inputs import mismatches, to_arrays

    metadata = client.metadata(model, version=version, label=label, timeout=timeout)
    where = f"{model} version {metadata.version}"
    signature = metadata.signatures.get(name)
    if signature is None:
        has = ", ".join(metadata.signatures) or "none"
        raise click.BadParameter(f"{where} has no signature {name!r}; it has {has}", param_hint="--signature")
    try:
        arrays = to_arrays(given.inputs, name, signature)
        wrong = mismatches(arrays, name, signature)
    except ValueError as error:
        wrong = [str(error)]
    if wrong:
        click.echo("\n".join(f"Error: {where}: {line}" for line in wrong), err=True)
        sys.exit(WRONG_USAGE)
    return arrays


def _check_output(output: Path) -> None:
    """Refuses, before anything is asked, a file that can't be written."""
    if output.suffix != ".npz":
        raise click.BadParameter(f"{output} does not end with .npz", param_hint="--output")
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {output.parent}", param_hint="--output")
