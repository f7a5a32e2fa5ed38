"""`tfserving init`: create a project of one's own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click

from tfserving.foundation.command.errors import WRONG, CommandError
from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.progress import Progress
from tfserving.init.project import KINDS, MODEL_NAME, TRAINING, existing, project_files, write_project

_MOST_LISTED = 3


@click.command(
    epilog="""\b
Examples:
  tfserving init                              in the working folder
  tfserving init my-project --name flowers
  tfserving init my-project --from keras-file

\b
The model comes from
  function      a function that trains it, run by each export
  keras-file    a .keras file, written by train.py
  saved-model   a SavedModel, written by train.py
  checkpoint    a checkpoint, written by train.py""",
)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--from", "kind", type=click.Choice(KINDS), default=KINDS[0], show_default=True, help="Kind of model.")
@click.option("--name", default="iris", show_default=True, help="Name of the model.")
@click.option("--no-train", is_flag=True, help="Do not run train.py.")
def init(folder: Path, kind: str, name: str, no_train: bool) -> None:
    """Create a project: models.yaml, a builder, a test.

    The project has a small model of real data, a test that serves and verifies it, and a CI file. FOLDER is the working
    folder when you name none. No file is overwritten.
    """
    if not MODEL_NAME.fullmatch(name):
        raise click.BadParameter(
            f"{name!r} can't name a model: use letters, digits, '_', '.' and '-', and begin with a letter or digit.",
            param_hint="--name",
        )
    files = project_files(kind, name)
    if there := existing(folder, files):
        raise CommandError(
            f"{folder.absolute()} already has {_listed(there)}, and no file is overwritten. Name another folder.", WRONG
        )
    try:
        write_project(folder, files)
    except OSError as error:
        raise CommandError(
            f"no project can be created in {folder.absolute()}: {error.filename}: {error.strerror}. "
            "Name a folder where you can write.",
            WRONG,
        ) from None
    click.echo(f"Created a project with {len(files)} files in {folder.absolute()}")
    missing = TRAINING in files and (no_train or not _train(folder))
    _show_next(folder, name, missing)


def _listed(files: list[str]) -> str:
    """Return the first of `files` and how many more there are."""
    shown = ", ".join(files[:_MOST_LISTED])
    more = len(files) - _MOST_LISTED
    return f"{shown} and {more} more of its files" if more > 0 else shown


def _train(folder: Path) -> bool:
    """Run train.py, and return whether it ran; without TensorFlow it can't."""
    if find_spec("tensorflow") is None:
        click.echo("TensorFlow is not installed here, so the model is not trained yet.", err=True)
        return False
    env = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    with tempfile.TemporaryFile("w+", errors="replace") as log, Progress() as progress:
        progress.update(f"Running {TRAINING} …")
        process = subprocess.Popen(
            [sys.executable, TRAINING], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                progress.line(line.rstrip())
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        text = log.read().strip()
    if code:
        raise CommandError(f"{folder / TRAINING} failed with exit code {code}. The project is there.\n{text}")
    return True


def _show_next(folder: Path, name: str, untrained: bool) -> None:
    """Print the next commands, as they are typed in the project."""
    here = Path.cwd()
    lines = [] if folder.resolve() == here.resolve() else [f"cd {shlex.quote(str(folder))}"]
    if untrained:
        lines.append(f"python {TRAINING}")
    # Their paths are relative to the project.
    os.chdir(folder)
    try:
        lines += [typed("serve"), typed(f"predict {name}"), typed("verify")]
    finally:
        os.chdir(here)
    click.echo("\nNext, with the last two in another shell:\n" + "\n".join(f"  {line}" for line in lines))
