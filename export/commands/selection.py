"""What the commands have in common: which models and versions are meant, and how a command ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, get_args

import click

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet

# What is not click is imported where it is used, so that help comes at once.

folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where versions are: FOLDER/NAME/VERSION.  [default: what the fleet's file says, or models]",
)


def select(models: Sequence[str], file: Path, folder: Path | None) -> Fleet:
    """A fleet of just what `models` names: all of `file` when nothing is, its models, and those of the command line.

    [NAME=]MODULE:FUNCTION names a builder, NAME=FOLDER a SavedModel.
    """
    from tfserving.foundation.golden import SAVED_MODEL
    from tfserving.serving.models_yaml.fleet import BUILDER, NAME, Fleet, Model, read_fleet

    strangers: dict[str, Model] = {}
    for text in (model for model in models if "=" in model or ":" in model):
        name, equals, builder = text.partition("=")
        if not equals:
            # The module's own name will do.
            name, builder = text.partition(":")[0].rpartition(".")[2], text
        if not NAME.fullmatch(name):
            raise click.UsageError(
                f"{name!r} can't name a model: letters, digits, '_', '.' and '-', the first no '.' or '-'"
            )
        if (Path(builder) / SAVED_MODEL).is_file() or Path(builder).is_dir():
            strangers[name] = Model(saved_model=Path(builder).absolute())
        elif BUILDER.fullmatch(builder):
            strangers[name] = Model(builder=builder)
        else:
            raise click.UsageError(f"{text}: {builder!r} is neither 'module:function' nor the folder of a SavedModel")
    names = tuple(model for model in models if "=" not in model and ":" not in model)
    if nameless := next((name for name in names if (Path(name) / SAVED_MODEL).is_file()), None):
        raise click.UsageError(f"{nameless} is the folder of a SavedModel; give it a name, as in NAME={nameless}")
    if names or not strangers:
        fleet = read_fleet(file)
        chosen = {name: fleet.models[name] for name in fleet.select(names)} | strangers
    else:
        # The fleet's file then only says which folder, and needn't be there.
        fleet = read_fleet(file) if file.exists() else Fleet(models=strangers)
        chosen = strangers
    return fleet.model_copy(update={"models": chosen, "folder": (folder or fleet.folder).absolute()})


def find_version(text: str, file: Path, folder: Path | None) -> Path:
    """The folder of the version that `text` names: a folder, NAME/VERSION, or NAME for the newest version.

    Raises click.UsageError when there is none.
    """
    from tfserving.foundation.golden import SAVED_MODEL
    from tfserving.serving.models_yaml.fleet import read_fleet

    path = Path(text)
    if (path / SAVED_MODEL).exists():
        return path
    if folder is None:
        folder = read_fleet(file).folder if file.exists() else Path("models")
    for candidate in (path, folder / text):
        if (candidate / SAVED_MODEL).exists():
            return candidate
        if newest := versions_in(candidate):
            return candidate / str(newest[-1])
    where = f"{path} and {folder / text}"
    raise click.UsageError(f"{text!r} is no version: neither {where} has a {SAVED_MODEL} or versions")


def check_rules(names: Sequence[str]) -> None:
    """Raises click.UsageError when one of `names`, an --allow, is no rule."""
    from tfserving.serving.models_yaml.fleet import Rule

    for name in names:
        if name not in get_args(Rule):
            raise click.UsageError(f"--allow {name}: there is no such rule; there are {', '.join(get_args(Rule))}")


def versions_in(model_folder: Path) -> list[int]:
    """The versions in `model_folder`, oldest first."""
    from tfserving.foundation.golden import versions_on_disk

    return sorted(versions_on_disk(model_folder)) if model_folder.is_dir() else []


def short(path: Path) -> str:
    """`path` as seen from here, when it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


class _Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. Not KeyboardInterrupt itself, or Python ends by SIGINT when one went through an `exec`."""


@contextlib.contextmanager
def ends_cleanly() -> Iterator[None]:
    """What the user got wrong ends the command with one error and exit code 2; Ctrl-C and SIGTERM end it quietly."""
    from tfserving.export.errors import ExportError
    from tfserving.foundation.golden import GoldenError
    from tfserving.serving.models_yaml.fleet import FleetError

    stopped_by = 0
    stderr = os.dup(2)

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal stopped_by
        stopped_by = number
        # TensorFlow prints the traceback of what is interrupted inside one of its calls; nobody wants to read that.
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        raise _Stopped

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        yield
    except BaseException as error:
        # TensorFlow's import, interrupted, can fail with another error than the interruption.
        if stopped_by:
            os.dup2(stderr, 2)
            click.echo("Stopped; nothing half done is left.", err=True)
            sys.exit(128 + stopped_by)
        if isinstance(error, FleetError | ExportError | GoldenError):
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)
        raise
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
