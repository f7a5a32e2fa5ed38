"""`predict`: one request to a model, from the command line."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.clients.commands.calls import (
    EXIT_CODES,
    WRONG_USAGE,
    Target,
    check_pinned,
    model_option,
    output_option,
    server_options,
    signature_option,
    version_options,
)
from tfserving.foundation.command.options import json_option

if TYPE_CHECKING:
    from tfserving.clients.client import Client
    from tfserving.clients.commands.images import Images
    from tfserving.clients.commands.input_values import GivenInputs
    from tfserving.foundation.tensors import Array


@click.command(
    epilog=f"""\b
Examples:
  tfserving client predict --model dense --input '[[0.5, 1.5, 2.5]]'
  tfserving client predict --model digits --input image=images.npy --output answer.npz
  tfserving client predict --model digits --input request.json --server http://127.0.0.1:8501
  tfserving client predict --model photos --input image=cat.png --resize --scale 0.003921569
  tfserving client predict --model pair --input 'a=[1, 2]' --input b=columns.npy --json
  curl -s https://example.com/request.json | tfserving client predict --model digits --input -

{EXIT_CODES}"""
)
@server_options
@model_option
@version_options
@click.option(
    "--input",
    "given",
    multiple=True,
    required=True,
    metavar="[NAME=]VALUE",
    help="An input: JSON, a .json, .npy, .npz or image file, or - for JSON on stdin. NAME= can be left out when the "
    "signature has one input, and for what has names in it: an .npz, a JSON object of names, a REST request "
    '({"inputs": …} or {"instances": […]}). Can be given several times.',
)
@signature_option
@click.option("--resize", is_flag=True, help="Make images the size that the signature wants.")
@click.option(
    "--scale", type=float, default=1.0, show_default=True, help="What an image's values, 0 to 255, are multiplied by."
)
@json_option
@output_option
def predict(
    *,
    target: Target,
    model: str,
    version: int | None,
    label: str | None,
    given: tuple[str, ...],
    signature: str | None,
    resize: bool,
    scale: float,
    as_json: bool,
    output: Path | None,
) -> None:
    """Asks a model for a prediction and shows its outputs.

    The inputs are checked against the server's metadata before they are sent. JSON's numbers take the element types
    that the signature wants; an array of a file must have them. An image becomes a batch of one: of its file's bytes
    where the signature wants strings, else of its pixels.
    """
    from tfserving.clients.call_options import DEFAULT_SIGNATURE
    from tfserving.clients.commands.images import Images
    from tfserving.clients.commands.input_values import InputError, read_inputs
    from tfserving.clients.commands.output_values import show

    check_pinned(version, label)
    try:
        inputs = read_inputs(given)
    except InputError as error:
        raise click.BadParameter(str(error), param_hint="--input") from None
    name = signature or inputs.signature or DEFAULT_SIGNATURE
    deadline = time.monotonic() + target.timeout
    with target.connected() as client:
        arrays = _checked(client, model, inputs, name, version=version, label=label, images=Images(resize, scale))
        answer = client.predict(
            model, arrays, signature=name, version=version, label=label, timeout=max(deadline - time.monotonic(), 0.001)
        )
    show(answer, answer.outputs, output=output, as_json=as_json)


def _checked(
    client: Client,
    model: str,
    given: GivenInputs,
    name: str,
    *,
    version: int | None,
    label: str | None,
    images: Images,
) -> dict[str, Array]:
    """The arrays to send; what doesn't fit the signature ends the command before anything is sent."""
    from tfserving.clients.inputs import mismatches, to_arrays
    from tfserving.clients.limits import MOST_LINES
    from tfserving.clients.printable import printable

    metadata = client.metadata(model, version=version, label=label)
    where = f"{model} version {metadata.version}"
    signature = metadata.signatures.get(name)
    if signature is None:
        has = ", ".join(metadata.signatures) or "none"
        text = printable(f"{where} has no signature {name!r}; it has {has}")
        raise click.BadParameter(text, param_hint="--signature")
    try:
        arrays = to_arrays(images.fitted(given.inputs, signature), name, signature)
        wrong = mismatches(arrays, name, signature)
    except ValueError as error:
        wrong = [str(error)]
    if wrong:
        click.echo("\n".join(printable(f"Error: {where}: {line}") for line in wrong[:MOST_LINES]), err=True)
        sys.exit(WRONG_USAGE)
    return arrays
