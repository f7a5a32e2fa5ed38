"""`classify` and `regress`: one request of tf.Examples, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tfserving.clients.commands.calls import (
    EXIT_CODES,
    Target,
    check_pinned,
    model_option,
    output_option,
    server_options,
    signature_option,
    version_options,
)
from tfserving.foundation.command.options import json_option

input_option = click.option(
    "--input",
    "given",
    required=True,
    metavar="VALUE",
    help="The examples: JSON (a list of objects of features, one such object, or a REST request with examples and "
    "context), a .json file, a .tfrecord file of tf.Examples, or - for JSON on stdin.",
)


@click.command(
    epilog=f"""\b
Examples:
  tfserving client classify --model flowers --input '[{{"length": 1.5, "name": "rose"}}]'
  tfserving client classify --model flowers --input examples.tfrecord --json
  tfserving client classify --model flowers --input request.json --server http://127.0.0.1:8501

{EXIT_CODES}"""
)
@server_options
@model_option
@version_options
@input_option
@signature_option
@json_option
@output_option
def classify(*, target: Target, given: str, output: Path | None, as_json: bool, **asked: Any) -> None:
    """Classifies tf.Examples and shows their classes and scores."""
    from tfserving.clients.commands.output_values import show

    request = _request(given, asked)
    with target.connected() as client:
        answer = client.classify(**request)
    show(answer, {"classes": answer.labels, "scores": answer.scores}, output=output, as_json=as_json)


@click.command(
    epilog=f"""\b
Examples:
  tfserving client regress --model prices --input '[{{"rooms": 3, "city": "Turin"}}]'
  tfserving client regress --model prices --input examples.tfrecord --output values.npz

{EXIT_CODES}"""
)
@server_options
@model_option
@version_options
@input_option
@signature_option
@json_option
@output_option
def regress(*, target: Target, given: str, output: Path | None, as_json: bool, **asked: Any) -> None:
    """Shows the value that a model finds for each tf.Example."""
    from tfserving.clients.commands.output_values import show

    request = _request(given, asked)
    with target.connected() as client:
        answer = client.regress(**request)
    show(answer, {"outputs": answer.values}, output=output, as_json=as_json)


def _request(given: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the call: those in `asked`, and the examples that `given` stands for."""
    from tfserving.foundation.examples import read_examples

    check_pinned(asked["version"], asked["label"])
    signature = asked.pop("signature")
    try:
        read = _read(given)
        examples, context = read["examples"], read.get("context")
        read_examples(examples, context)
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--input") from None
    signature = signature or read.get("signature_name")
    named = {} if signature is None else {"signature": signature}
    return {**asked, **named, "examples": examples, "context": context, "check": True}


def _read(given: str) -> dict[str, Any]:
    """What a request has under `examples`, and maybe under `context` and `signature_name`."""
    from tfserving.clients.commands.input_values import unpack
    from tfserving.foundation.given import STDIN, given_text
    from tfserving.foundation.records import RecordError, read_records

    if given.endswith(".tfrecord"):
        try:
            return {"examples": list(read_records(Path(given)))}
        except RecordError as error:
            raise ValueError(str(error)) from None
    where = "standard input" if given == STDIN else given if given.endswith(".json") else "the value"
    text = given_text(given) if given == STDIN or given.endswith(".json") else given
    try:
        read = unpack(json.loads(text))
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply") from None
    if isinstance(read, list):
        return {"examples": [unpack(example) for example in read]}
    if not isinstance(read, dict):
        raise ValueError(f"{where} is no object of features, nor a list of such objects")
    return read if isinstance(read.get("examples"), list) else {"examples": [read]}
