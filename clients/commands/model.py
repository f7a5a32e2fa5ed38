"""The argument `MODEL[/VERSION]` of commands that call a server, with `--label`; and models on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from tfserving.foundation.command.errors import WRONG, CommandError
from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.options import complete_models
from tfserving.foundation.command.project import project
from tfserving.foundation.command.suggest import did_you_mean

if TYPE_CHECKING:
    from tfserving.clients.verification.proofs import ModelFolder


class Model(NamedTuple):
    """A model on a server, and the version that is selected by its number or by a label."""

    name: str
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}/{self.version}"


class _ModelType(click.ParamType[Model]):
    """`MODEL[/VERSION]`."""

    name = "MODEL[/VERSION]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Model:
        """See `click.ParamType.convert`."""
        if isinstance(value, Model):
            return value
        from tfserving.foundation.golden import is_version

        name, slash, version = value.partition("/")
        if not name:
            self.fail(f"{value!r} has no model name; expected MODEL or MODEL/VERSION, for example digits/3", param, ctx)
        if slash and not is_version(version):
            self.fail(f"{value!r} has no number as version; expected MODEL/VERSION, for example digits/3", param, ctx)
        return Model(name, int(version) if slash else None)


def model_argument(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument `MODEL[/VERSION]` and `--label`; the command gets them as `model`."""

    @wraps(command)
    def with_model(*, model: Model, label: str | None, **options: Any) -> None:
        if label == "":
            raise click.BadParameter("a label must not be empty", param_hint="--label")
        if label is not None and model.version is not None:
            raise click.UsageError(f"{model} and --label {label} both select a version; give one of them")
        command(model=model._replace(label=label), **options)

    labelled = click.option("--label", metavar="LABEL", help="The version with this label.")(with_model)
    return click.argument("model", type=_ModelType(), metavar="MODEL[/VERSION]", shell_complete=complete_models)(
        labelled
    )


def fleet_model(text: str, *, accepted: bool = False) -> ModelFolder | None:
    """Return the model of the fleet that `text`, `MODEL[/VERSION]`, names; None when the fleet has none of this name.

    With `accepted` only its versions that models.yaml trusts. Raises CommandError when models.yaml can't be used, and
    when the model has no version or lacks this one.
    """
    from tfserving.clients.verification.proofs import ModelFolder
    from tfserving.foundation.golden import is_version, versions_on_disk

    name, slash, version = text.partition("/")
    if (slash and not is_version(version)) or not _has(name, text):
        return None
    number = int(version) if slash else None
    folder = project().accepted_folder(name, number) if accepted else project().folder(name)
    on_disk = versions_on_disk(folder) if folder.is_dir() else {}
    if not on_disk:
        build = typed(f"export build {name}", fleet=click.get_current_context().params.get("fleet"))
        raise CommandError(f"model {name!r} has no version in {folder}. Export one with `{build}`.", WRONG)
    if number is not None and number not in on_disk:
        known = ", ".join(map(str, on_disk))
        raise CommandError(f"model {name!r} has no version {version} in {folder}; it has {known}.", WRONG)
    return ModelFolder(name, folder, number)


def _has(name: str, text: str) -> bool:
    """Return whether the fleet has a model. A models.yaml that can't be used doesn't matter when `text` is a path."""
    try:
        return project().has(name)
    except CommandError:
        if Path(text).exists():
            return False
        raise


def source_of(text: str, *, accepted: bool = False) -> str | ModelFolder:
    """Return the model of the fleet that `text` names, else `text` itself when it is a path that exists or a URL.

    `accepted`: see `fleet_model`. Raises CommandError for any other text.
    """
    found = fleet_model(text, accepted=accepted)
    if found is not None:
        return found
    if "://" in text or Path(text).exists():
        return text
    raise CommandError(unknown_model(text), WRONG)


def unknown_model(text: str) -> str:
    """Return the error for `text`, which is neither a model of the fleet nor a path."""
    try:
        models = project().models()
    except CommandError as error:
        return f"there is no folder {text}, and {error.message}"
    name = text.partition("/")[0]
    if not name:
        return f"there is no file or folder {text}."
    return f"no model is called {name!r}, and there is no folder {text}; the fleet has {', '.join(models)}." + (
        did_you_mean(name, models)
    )
