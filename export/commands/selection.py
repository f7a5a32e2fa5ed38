"""Which models and versions the arguments of a command mean, and how a wrong input ends it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from tfserving.foundation.command.errors import WRONG, CommandError
from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.suggest import did_you_mean

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet, Model

# Modules other than click are imported where they are used, so that help is quick.

LATEST = "latest"
folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the versions, FOLDER/MODEL/VERSION.  [default: `folder` of models.yaml, or models]",
)
breaking_option = click.option(
    "--breaking", is_flag=True, help="Accept signatures that break clients of the previous version."
)
allow_option = click.option(
    "--allow", multiple=True, metavar="RULE", help="Accept a broken rule of docs/lint.md. Repeatable."
)


def typed_models(arguments: Sequence[str]) -> dict[str, Model]:
    """Return the models that the command line itself defines: [NAME=]MODULE:FUNCTION, NAME=SAVED_MODEL."""
    from tfserving.foundation.golden import SAVED_MODEL
    from tfserving.foundation.quality import FUNCTION
    from tfserving.serving.models_yaml.fleet import Model
    from tfserving.serving.models_yaml.patterns import NAME, is_mlflow_uri

    found: dict[str, Model] = {}
    for text in arguments:
        if "=" not in text and ":" not in text:
            if (Path(text) / SAVED_MODEL).is_file():
                raise click.UsageError(f"{text} is the folder of a SavedModel. Give it a name: NAME={text}")
            continue
        if is_mlflow_uri(text):
            raise click.UsageError(f"{text} is a model of MLflow. Give it a name: NAME={text}")
        name, equals, source = text.partition("=")
        if not equals:
            # The name of the module.
            name, source = text.partition(":")[0].rpartition(".")[2], text
        if not NAME.fullmatch(name):
            raise click.UsageError(
                f"{name!r} is not a model name. Use letters, digits, '_', '.' and '-', and begin with a letter, a "
                "digit or '_'."
            )
        if is_mlflow_uri(source):
            found[name] = Model(saved_model=Path(source))
        elif Path(source).is_dir():
            found[name] = Model(saved_model=Path(source).absolute())
        elif FUNCTION.fullmatch(source):
            found[name] = Model(builder=source)
        else:
            raise click.UsageError(
                f"{text}: expected NAME=MODULE:FUNCTION, NAME=FOLDER with the folder of a SavedModel or of an MLflow "
                f"model, or NAME=models:/NAME/VERSION, got {source!r}"
            )
    return found


def select(arguments: Sequence[str], file: Path, folder: Path | None) -> Fleet:
    """Return a fleet of the models that `arguments` name: of `file` (all when none is named) and typed ones."""
    from tfserving.serving.models_yaml.fleet import Fleet, read_fleet

    here = typed_models(arguments)
    names = tuple(text for text in arguments if "=" not in text and ":" not in text)
    if names or not here:
        fleet = read_fleet(file)
        chosen = {name: fleet.models[name] for name in fleet.select(names)} | here
    else:
        # models.yaml only gives the folder then, and needn't exist.
        fleet = read_fleet(file) if file.exists() else Fleet(models=here)
        chosen = here
    return fleet.model_copy(update={"models": chosen, "folder": (folder or fleet.folder).absolute()})


def find_version(text: str, file: Path, folder: Path | None) -> Path:
    """Return the folder of the version that `text` names: a folder, MODEL/VERSION, or MODEL for the newest version.

    Raises CommandError when there is none.
    """
    from tfserving.foundation.golden import SAVED_MODEL, is_version, versions_on_disk
    from tfserving.serving.models_yaml.fleet import read_fleet

    path = Path(text)
    if (path / SAVED_MODEL).exists():
        return path
    fleet = read_fleet(file) if file.exists() else None
    models = folder or (fleet.folder if fleet else Path("models"))
    name, slash, number = text.rstrip("/").rpartition("/")
    name, number = (name, number) if slash and (number == LATEST or is_version(number)) else (text.rstrip("/"), LATEST)
    for model_folder in (models / name, Path(name)):
        versions = sorted(versions_on_disk(model_folder)) if model_folder.is_dir() else []
        if versions and number == LATEST:
            return model_folder / str(versions[-1])
        if number != LATEST and int(number) in versions:
            return model_folder / str(int(number))
        if versions:
            has = ", ".join(map(str, versions))
            raise CommandError(f"model {name!r} has no version {number} in {short(model_folder)}; it has {has}", WRONG)
    if fleet and name in fleet.models:
        command = typed(f"export build {name}", fleet=file)
        raise CommandError(f"model {name!r} has no versions in {short(models / name)}. Export one: {command}", WRONG)
    if path.is_dir():
        raise CommandError(f"{text} is not a SavedModel and has no versions: it has no {SAVED_MODEL}", WRONG)
    known = list(fleet.models) if fleet else []
    others = f"{file} has {', '.join(known)}." if fleet else f"There is no {file}."
    raise CommandError(
        f"{text!r} is neither a model nor the folder of a SavedModel. {others}{did_you_mean(name, known)}", WRONG
    )


def versions_of(versions: tuple[str, ...], fleet: Path, folder: Path | None) -> list[Path]:
    """Return the folders that `versions` name, or the newest version of each model when they name none."""
    if versions:
        return [find_version(text, fleet, folder) for text in versions]
    selected = select((), fleet, folder)
    paths = [
        selected.model_folder(name) / str(found[-1]) for name in selected.models if (found := selected.versions(name))
    ]
    if not paths:
        click.echo("No model has a version yet.", err=True)
    return paths


def fleet_of(file: Path) -> Fleet | None:
    """Return the fleet of models.yaml; None when there is no such file. Raises FleetError."""
    from tfserving.serving.models_yaml.fleet import read_fleet

    return read_fleet(file) if file.exists() else None


def check_rules(names: Sequence[str]) -> None:
    """Raise click.UsageError when one of `names`, the values of --allow, is not a rule."""
    from tfserving.serving.models_yaml.fleet import Rule

    for name in names:
        if name not in (rules := get_args(Rule)):
            raise click.UsageError(
                f"--allow {name}: there is no such rule.{did_you_mean(name, rules)} The rules are {', '.join(rules)}."
            )


def short(path: Path) -> str:
    """Return `path` relative to the working folder when it is inside."""
    here, path = Path.cwd(), path.absolute()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


@contextlib.contextmanager
def checked_input() -> Iterator[None]:
    """End the command with exit code 2 when models.yaml, a version or another input can't be used."""
    from tfserving.export.errors import ExportError
    from tfserving.foundation.golden import GoldenError
    from tfserving.serving.models_yaml.fleet import FleetError

    try:
        yield
    except (FleetError, ExportError, GoldenError) as error:
        raise CommandError(str(error), WRONG) from None
