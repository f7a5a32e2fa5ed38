"""`predict`: one request to a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from tfserving.clients.commands.calls import Target, output_option, server_options, signature_option
from tfserving.clients.commands.model import Model, model_argument
from tfserving.foundation.command.errors import WRONG, CommandError
from tfserving.foundation.command.options import Finite, fleet_option, json_option

if TYPE_CHECKING:
    from tfserving.clients.client import Client
    from tfserving.clients.commands.images import Images
    from tfserving.clients.commands.input_values import GivenInputs
    from tfserving.foundation.tensors import Array


class _Request(NamedTuple):
    """What is sent: the arrays of a signature's inputs."""

    signature: str
    arrays: dict[str, Array]


@click.command(
    epilog="""\b
Examples:
  tfserving predict digits
  tfserving predict dense --input '[[0.5, 1.5, 2.5]]'
  tfserving predict digits/3 --input image=images.npy --output outputs.npz
  tfserving predict digits --label canary --input request.json
  tfserving predict photos --input image=cat.png --resize --scale 0.003921569
  tfserving predict pair --input 'a=[1, 2]' --input b=columns.npy --json
  tfserving predict digits --print-body |
    curl -s -d @- http://127.0.0.1:8501/v1/models/digits:predict""",
)
@model_argument
@click.option(
    "--input",
    "given",
    multiple=True,
    metavar="[NAME=]VALUE",
    help="An input: JSON, a .json, .npy, .npz or image file, or - for JSON on stdin. Repeat it for several inputs. "
    "NAME= is optional for the only input of a signature, and for values with names in them: an .npz file, a JSON "
    'object, a REST request ({"inputs": …} or {"instances": […]}).  [default: a golden request]',
)
@signature_option
@click.option("--resize", is_flag=True, help="Resize images to the size in the signature.")
@click.option(
    "--scale",
    type=Finite(),
    metavar="FLOAT",
    default=1.0,
    show_default=True,
    help="Multiply the values of images, 0 to 255, by this.",
)
@click.option("--print-body", is_flag=True, help="Print the body of the REST request instead of sending the request.")
@server_options
@fleet_option
@json_option
@output_option
def predict(
    *,
    target: Target,
    model: Model,
    given: tuple[str, ...],
    signature: str | None,
    resize: bool,
    scale: float,
    print_body: bool,
    fleet: Path,  # noqa: ARG001 - the project uses it
    as_json: bool,
    output: Path | None,
) -> None:
    """Send a predict request, and print the outputs.

    Without --input it sends a golden request of a model in models.yaml: one that was stored with the version on disk.

    Inputs are checked against the server's signature before they are sent. JSON numbers are converted to its dtypes;
    arrays in files must have them. An image becomes a batch of one: its bytes where the signature has strings, else
    its pixels.
    """
    from tfserving.clients.commands.images import Images
    from tfserving.clients.commands.output_values import show

    inputs = _given(given) if given else None
    if inputs is None and print_body and model.label is None:
        # No server is needed.
        request = _golden(model, signature)
        click.echo(_body(request))
        return
    deadline = time.monotonic() + target.timeout
    with target.connected() as client:
        if inputs is None:
            request = _golden(model, signature, client)
        else:
            request = _checked(client, model, inputs, signature, images=Images(resize, scale))
        if print_body:
            click.echo(_body(request))
            return
        result = client.predict(
            model.name,
            request.arrays,
            signature=request.signature,
            version=model.version,
            label=model.label,
            timeout=max(deadline - time.monotonic(), 0.001),
        )
    show(result, result.outputs, output=output, as_json=as_json)


def _given(given: tuple[str, ...]) -> GivenInputs:
    from tfserving.clients.commands.input_values import InputError, read_inputs

    try:
        return read_inputs(given)
    except InputError as error:
        raise click.BadParameter(str(error), param_hint="--input") from None


def _golden(model: Model, signature: str | None, client: Client | None = None) -> _Request:
    """Return a golden request, and print which one. Only a server knows the version with a label."""
    from tfserving.clients.commands.golden_input import golden_input

    labelled = None
    if client is not None and model.label is not None:
        labelled = client.metadata(model.name, label=model.label).version
    found = golden_input(model, signature, labelled)
    click.echo(f"Using golden request {found.number} of {model.name}/{found.version}.", err=True)
    # Over REST every input is required, also one with a default.
    return _Request(found.request.signature, {**found.defaults, **found.request.inputs})


def _body(request: _Request) -> bytes:
    from tfserving.clients.rest_json import predict_request

    try:
        return predict_request(request.signature, request.arrays)
    except TypeError as error:
        raise CommandError(str(error), WRONG) from None


def _checked(client: Client, model: Model, given: GivenInputs, name: str | None, *, images: Images) -> _Request:
    """Return the request. Inputs that don't match the signature end the command before anything is sent."""
    from tfserving.clients.call_options import DEFAULT_SIGNATURE
    from tfserving.clients.inputs import mismatches, to_arrays
    from tfserving.clients.limits import MOST_LINES
    from tfserving.clients.printable import printable

    name = name or given.signature or DEFAULT_SIGNATURE
    metadata = client.metadata(model.name, version=model.version, label=model.label)
    where = f"{model.name} version {metadata.version}"
    signature = metadata.signatures.get(name)
    if signature is None:
        known = ", ".join(metadata.signatures) or "none"
        raise click.BadParameter(
            printable(f"{where} lacks signature {name!r}; it has {known}"), param_hint="--signature"
        )
    try:
        arrays = to_arrays(images.fitted(given.inputs, signature), name, signature)
        wrong = mismatches(arrays, name, signature)
    except ValueError as error:
        wrong = [str(error)]
    if wrong:
        raise CommandError("\n".join(printable(f"{where}: {line}") for line in wrong[:MOST_LINES]), WRONG)
    return _Request(name, arrays)
