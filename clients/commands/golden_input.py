"""The input of `predict` without `--input`: a golden request of the model's version on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import click

from tfserving.clients.commands.model import Model, fleet_model
from tfserving.foundation.command.errors import WRONG, CommandError
from tfserving.foundation.command.project import project
from tfserving.foundation.command.suggest import did_you_mean

if TYPE_CHECKING:
    from tfserving.foundation.golden import GoldenRequest
    from tfserving.foundation.tensors import Array


class GoldenInput(NamedTuple):
    """A golden request with its number in the version, the defaults of inputs that it omits, and the version."""

    request: GoldenRequest
    defaults: Mapping[str, Array]
    number: int
    version: int


def golden_input(model: Model, signature: str | None, version: int | None = None) -> GoldenInput:
    """Return the first golden predict request of `model`, to `signature` if given.

    It is one of `version`, else of the selected version, else of the one that clients get. Raises CommandError.
    """
    from tfserving.foundation.golden import GoldenError, read_golden

    found = fleet_model(str(model))
    if found is None:
        try:
            models = project().models()
        except CommandError as error:
            raise click.UsageError(f"--input is missing, and there is no golden request: {error.message}") from None
        raise click.UsageError(
            f"--input is missing. {model.name!r} is not a model of models.yaml, so it has no golden request."
            + did_you_mean(model.name, models)
        )
    version = version or found.version or project().version(model.name)
    folder = found.folder / str(version)
    try:
        golden = read_golden(folder)
    except GoldenError as error:
        raise CommandError(f"{error}. Give --input instead.", WRONG) from None
    for number, request in enumerate(golden.requests):
        if request.method == "predict" and signature in (None, request.signature):
            return GoldenInput(request, golden.defaults.get(request.signature, {}), number, version)
    wanted = f" with signature {signature!r}" if signature else ""
    raise CommandError(f"{folder} has no golden request to predict{wanted}. Give --input instead.", WRONG)
