"""`classify` and `regress`: one request of tf.Examples."""

from __future__ import annotations

from json import JSONDecodeError
from pathlib import Path
from typing import Any

import click

from tfserving.clients.commands.calls import Target, output_option, server_options, signature_option
from tfserving.clients.commands.model import Model, model_argument
from tfserving.clients.printable import shortened
from tfserving.foundation.command.options import json_option

# How much an error quotes of a value on the command line.
_QUOTED = 200
input_option = click.option(
    "--input",
    "given",
    required=True,
    metavar="VALUE",
    help="The examples: JSON, a .json file, a .tfrecord file of tf.Examples, or - for JSON on stdin. The JSON is an "
    "object of features, a list of such objects, or a REST request with examples and context.",
)


@click.command(
    epilog="""\b
Examples:
  tfserving classify flowers --input '[{"length": 1.5, "name": "rose"}]'
  tfserving classify flowers --input examples.tfrecord --json
  tfserving classify flowers/2 --input examples.json --server http://gpu:8501"""
)
@model_argument
@input_option
@signature_option
@server_options
@json_option
@output_option
def classify(
    *, target: Target, model: Model, signature: str | None, given: str, output: Path | None, as_json: bool
) -> None:
    """Send tf.Examples; print their classes and scores."""
    from tfserving.clients.commands.output_values import show

    request = _request(model, signature, given)
    with target.connected() as client:
        result = client.classify(**request)
    show(result, {"classes": result.labels, "scores": result.scores}, output=output, as_json=as_json)


@click.command(
    epilog="""\b
Examples:
  tfserving regress prices --input '[{"rooms": 3, "city": "Turin"}]'
  tfserving regress prices --input examples.tfrecord --output values.npz"""
)
@model_argument
@input_option
@signature_option
@server_options
@json_option
@output_option
def regress(
    *, target: Target, model: Model, signature: str | None, given: str, output: Path | None, as_json: bool
) -> None:
    """Send tf.Examples; print the value of each."""
    from tfserving.clients.commands.output_values import show

    request = _request(model, signature, given)
    with target.connected() as client:
        result = client.regress(**request)
    show(result, {"outputs": result.values}, output=output, as_json=as_json)


def _request(model: Model, signature: str | None, given: str) -> dict[str, Any]:
    """Return the arguments of the call."""
    from tfserving.foundation.examples import read_examples

    try:
        read = _read(given)
        examples, context = read["examples"], read.get("context")
        read_examples(examples, context)
    except OSError as error:
        raise click.BadParameter(f"{error.filename}: {error.strerror}", param_hint="--input") from None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--input") from None
    signature = signature or read.get("signature_name")
    named = {} if signature is None else {"signature": signature}
    selected = {"model": model.name, "version": model.version, "label": model.label}
    return {**selected, **named, "examples": examples, "context": context, "check": True}


def _read(given: str) -> dict[str, Any]:
    """Return `examples`, and those of `context` and `signature_name` that `given` contains."""
    from tfserving.clients.commands.input_values import unpack
    from tfserving.clients.rest_json import parse_request
    from tfserving.foundation.given import STDIN, given_text
    from tfserving.foundation.records import RecordError, read_records

    if given.endswith(".tfrecord"):
        try:
            return {"examples": list(read_records(Path(given)))}
        except RecordError as error:
            raise ValueError(str(error)) from None
    is_file = given == STDIN or given.endswith(".json")
    where = "standard input" if given == STDIN else given if is_file else shortened(repr(given), _QUOTED)
    try:
        read = unpack(parse_request(given_text(given) if is_file else given))
    except JSONDecodeError as error:
        if is_file or given.lstrip().startswith(("[", "{")):
            raise ValueError(f"{where} is not JSON: {error}") from None
        raise ValueError(f"{where} is neither JSON nor the name of a .json or .tfrecord file") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    except RecursionError:
        raise ValueError(f"{where} is JSON that is nested too deeply") from None
    if isinstance(read, list):
        return {"examples": [unpack(example) for example in read]}
    if not isinstance(read, dict):
        raise ValueError(f"{where} must be an object of features or a list of such objects")
    return read if isinstance(read.get("examples"), list) else {"examples": [read]}
